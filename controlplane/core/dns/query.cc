#include "controlplane/core/dns/query.h"

#include <algorithm>

namespace penstock::dns {
namespace {

constexpr std::uint32_t kDnssecOk = 0x8000;  // in the OPT record's TTL

// The OPT record's options. False: malformed.
bool read_options(Bytes options, Edns& edns) {
  std::size_t at = 0;
  while (at < options.size()) {
    if (options.size() - at < 4) return false;
    const std::uint16_t code = load16(options, at);
    const std::size_t size = load16(options, at + 2);
    at += 4;
    if (options.size() - at < size) return false;
    if (code == kOptionCookie) {
      if (size != 8 && (size < 16 || size > 40)) return false;  // RFC 7873 §5.2.2
      if (edns.cookie_size == 0) {
        std::copy_n(options.begin() + static_cast<std::ptrdiff_t>(at), size, edns.cookie.begin());
        edns.cookie_size = size;
      }
    } else {
      edns.only_cookie = false;
    }
    at += size;
  }
  return true;
}

// Additional records of a query: at most one OPT, and perhaps a signature that we only pass on.
bool read_additionals(Bytes message, std::size_t at, unsigned count, Query& query) {
  if (count > 2) return false;
  for (unsigned i = 0; i < count; ++i) {
    const auto record = read_record(message, at);
    if (!record) return false;
    if (record->type != type::opt) continue;
    Edns& edns = query.edns;
    if (edns.present || !record->owner.is_root()) return false;
    edns.present = true;
    edns.udp_size_at = record->ttl_at - 2;
    edns.udp_size = record->klass;
    edns.version = static_cast<std::uint8_t>(record->ttl >> 16);
    edns.dnssec_ok = (record->ttl & kDnssecOk) != 0;
    if (!read_options(message.subspan(record->rdata_at, record->rdata_size), edns)) return false;
  }
  return at == message.size();
}

}  // namespace

std::size_t Query::udp_limit() const {
  if (!edns.present) return kPlainUdpSize;
  return std::clamp<std::size_t>(edns.udp_size, kPlainUdpSize, kMaxUdpSize);
}

Query parse_query(Bytes message) {
  Query query;
  const Header* header = view_as<Header>(message);
  if (header == nullptr) return query;
  query.id = header->id.host();
  query.flags = header->flags.host();
  if ((query.flags & flag::qr) != 0) return query;
  if ((query.flags & flag::opcode) != 0) {
    query.state = QueryState::not_implemented;
    return query;
  }
  query.state = QueryState::malformed;
  if (header->questions.host() != 1) return query;

  // The question's name is the first in the message, so nothing can be compressed.
  std::size_t at = kHeaderSize;
  while (true) {
    if (at >= message.size()) return query;
    const std::size_t length = message[at];
    if (length > kMaxLabel) return query;
    at += 1 + length;
    if (at - kHeaderSize > kMaxWireName) return query;
    if (length == 0) break;
  }
  if (message.size() < at + 4) return query;
  query.qname = message.subspan(kHeaderSize, at - kHeaderSize);
  query.qtype = load16(message, at);
  query.qclass = load16(message, at + 2);
  query.question_end = at + 4;
  query.has_question = true;
  if (query.qtype == type::opt || query.qtype == 0) return query;

  at = query.question_end;
  const unsigned authorities = header->authorities.host();
  if (header->answers.host() != 0 || authorities > (query.qtype == type::ixfr ? 1 : 0)) return query;
  if (authorities == 1 && !read_record(message, at)) return query;
  if (!read_additionals(message, at, header->additionals.host(), query)) return query;
  query.state = QueryState::ok;
  return query;
}

void AnswerBuilder::put16(std::uint16_t value) {
  store16(buffer_, size_, value);
  size_ += 2;
}
void AnswerBuilder::put32(std::uint32_t value) {
  store32(buffer_, size_, value);
  size_ += 4;
}
void AnswerBuilder::put(Bytes bytes) {
  std::copy(bytes.begin(), bytes.end(), buffer_.begin() + static_cast<std::ptrdiff_t>(size_));
  size_ += bytes.size();
}
void AnswerBuilder::count(std::size_t section_at) {
  store16(buffer_, section_at, static_cast<std::uint16_t>(load16(buffer_, section_at) + 1));
}

void AnswerBuilder::start(const Query& query, std::uint16_t code, bool authoritative, Bytes server_cookie) {
  query_ = &query;
  code_ = code;
  server_cookie_ = server_cookie;
  size_ = 0;
  put16(query.id);
  put16(static_cast<std::uint16_t>(flag::qr | flag::ra | (authoritative ? flag::aa : 0) |
                                   (query.flags & (flag::opcode | flag::rd | flag::cd)) | (code & flag::rcode)));
  put16(query.has_question ? 1 : 0);
  put16(0);
  put32(0);
  if (!query.has_question) return;
  put(query.qname);
  put16(query.qtype);
  put16(query.qclass);
}

void AnswerBuilder::add(std::uint16_t type, std::uint32_t ttl, Bytes rdata) {
  count(6);
  put16(0xc000 | kHeaderSize);
  put16(type);
  put16(kClassIn);
  put32(ttl);
  put16(static_cast<std::uint16_t>(rdata.size()));
  put(rdata);
}

void AnswerBuilder::add_soa(std::uint32_t ttl) {
  count(8);
  const std::size_t first = query_->qname[0];
  if (first == 0)
    buffer_[size_++] = 0;
  else
    put16(static_cast<std::uint16_t>(0xc000 | (kHeaderSize + 1 + first)));
  put16(type::soa);
  put16(kClassIn);
  put32(ttl);
  const Bytes server = own_server_name().bytes();
  put16(static_cast<std::uint16_t>(server.size() + 2 + 20));
  const std::size_t server_at = size_;
  put(server);
  put16(static_cast<std::uint16_t>(0xc000 | server_at));
  put32(1);      // serial
  put32(3600);   // refresh
  put32(600);    // retry
  put32(86400);  // expire
  put32(ttl);    // minimum (RFC 2308 §4)
}

Bytes AnswerBuilder::finish(std::size_t limit) {
  const Edns& edns = query_->edns;
  const std::size_t cookie = edns.cookie_size == 0 ? 0 : 4 + std::max<std::size_t>(edns.cookie_size, 16);
  const std::size_t opt = edns.present ? 11 + cookie : 0;
  if (size_ + opt > limit) {
    buffer_[2] |= flag::tc >> 8;
    for (std::size_t at = 6; at < kHeaderSize; ++at) buffer_[at] = 0;
    size_ = query_->question_end;
  }
  if (edns.present) {
    count(10);
    buffer_[size_++] = 0;
    put16(type::opt);
    put16(kMaxUdpSize);
    put32(std::uint32_t{code_} >> 4 << 24 | (edns.dnssec_ok ? kDnssecOk : 0));
    put16(static_cast<std::uint16_t>(cookie));
    if (cookie != 0) {
      put16(kOptionCookie);
      put16(static_cast<std::uint16_t>(cookie - 4));
      put(Bytes{edns.cookie}.first(edns.cookie_size));
      if (edns.cookie_size == 8) put(server_cookie_.first(8));
    }
  }
  return Bytes{buffer_}.first(size_);
}

void append_opt(std::vector<std::uint8_t>& message, std::uint16_t code, bool dnssec_ok, Bytes options) {
  const std::size_t at = message.size();
  message.resize(at + 11);
  message[at] = 0;
  store16(message, at + 1, type::opt);
  store16(message, at + 3, kMaxUdpSize);
  store32(message, at + 5, std::uint32_t{code} >> 4 << 24 | (dnssec_ok ? kDnssecOk : 0));
  store16(message, at + 9, static_cast<std::uint16_t>(options.size()));
  message.insert(message.end(), options.begin(), options.end());
  store16(message, 10, static_cast<std::uint16_t>(load16(message, 10) + 1));
}

std::vector<std::uint8_t> cookie_option(const Edns& edns, Bytes server_cookie) {
  if (edns.cookie_size == 0) return {};
  const std::size_t size = std::max<std::size_t>(edns.cookie_size, 16);
  std::vector<std::uint8_t> option(4 + size);
  store16(option, 0, kOptionCookie);
  store16(option, 2, static_cast<std::uint16_t>(size));
  std::copy_n(edns.cookie.begin(), edns.cookie_size, option.begin() + 4);
  if (edns.cookie_size == 8) std::copy_n(server_cookie.begin(), 8, option.begin() + 12);
  return option;
}

}  // namespace penstock::dns
