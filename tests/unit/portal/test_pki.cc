#include "tests/unit/portal/test_pki.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <memory>

namespace penstock {
namespace {

struct Free {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509_EXTENSION* extension) const { X509_EXTENSION_free(extension); }
};
using Pkey = std::unique_ptr<EVP_PKEY, Free>;
using Certificate = std::unique_ptr<X509, Free>;

template <typename Write>
std::string pem(Write write) {
  const std::unique_ptr<BIO, Free> bio{BIO_new(BIO_s_mem())};
  write(bio.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

Certificate make(const char* name, long serial, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key, int kind,
                 const char* value) {
  Certificate out{X509_new()};
  X509_set_version(out.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(out.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(out.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(out.get()), 86400);
  X509_set_pubkey(out.get(), key);
  X509_NAME* subject = X509_get_subject_name(out.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
  X509_set_issuer_name(out.get(), issuer == nullptr ? subject : X509_get_subject_name(issuer));
  const std::unique_ptr<X509_EXTENSION, Free> extension{X509V3_EXT_conf_nid(nullptr, nullptr, kind, value)};
  X509_add_ext(out.get(), extension.get(), -1);
  X509_sign(out.get(), issuer_key, EVP_sha256());
  return out;
}

}  // namespace

TestPki make_test_pki() {
  const Pkey ca_key{EVP_EC_gen("P-256")};
  const Pkey key{EVP_EC_gen("P-256")};
  const Certificate ca =
      make("Test CA", 1, ca_key.get(), nullptr, ca_key.get(), NID_basic_constraints, "critical,CA:TRUE");
  const Certificate server =
      make("portal.example", 2, key.get(), ca.get(), ca_key.get(), NID_subject_alt_name, "DNS:portal.example");
  return {pem([&](BIO* bio) { PEM_write_bio_X509(bio, ca.get()); }),
          pem([&](BIO* bio) { PEM_write_bio_X509(bio, server.get()); }),
          pem([&](BIO* bio) { PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr); })};
}

}  // namespace penstock
