// Helpers of the DNS tests. Answers are read, and upstream answers written, by ldns, so that our own reader and writer
// are never their own judge.
#pragma once

#include <gtest/gtest.h>
#include <ldns/ldns.h>

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "controlplane/core/dns/message.h"
#include "controlplane/core/dns/stub_resolver.h"

namespace penstock::dns {

class SeededRandom : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed = 1) : engine_(seed) {}
  void fill(std::span<std::uint8_t> out) override {
    for (auto& byte : out) byte = static_cast<std::uint8_t>(engine_());
  }

 private:
  std::mt19937_64 engine_;
};

using Wire = std::vector<std::uint8_t>;

struct QueryOptions {
  std::uint16_t id = 0x1234;
  std::uint16_t flags = flag::rd;
  std::uint16_t klass = kClassIn;
  int edns_size = -1;  // -1: no EDNS
  bool dnssec_ok = false;
  std::uint8_t edns_version = 0;
  Wire options{};  // raw EDNS options
};

inline void append16(Wire& out, std::uint16_t value) {
  out.push_back(static_cast<std::uint8_t>(value >> 8));
  out.push_back(static_cast<std::uint8_t>(value));
}

// `name` in presentation form without escapes; its case is kept.
inline Wire make_query(std::string_view name, std::uint16_t type, const QueryOptions& options = {}) {
  Wire out;
  append16(out, options.id);
  append16(out, options.flags);
  append16(out, 1);
  append16(out, 0);
  append16(out, 0);
  append16(out, options.edns_size >= 0 ? 1 : 0);
  while (!name.empty()) {
    const std::size_t dot = std::min(name.find('.'), name.size());
    out.push_back(static_cast<std::uint8_t>(dot));
    out.insert(out.end(), name.begin(), name.begin() + static_cast<std::ptrdiff_t>(dot));
    name.remove_prefix(std::min(dot + 1, name.size()));
  }
  out.push_back(0);
  append16(out, type);
  append16(out, options.klass);
  if (options.edns_size >= 0) {
    out.push_back(0);
    append16(out, type::opt);
    append16(out, static_cast<std::uint16_t>(options.edns_size));
    out.push_back(0);
    out.push_back(options.edns_version);
    append16(out, options.dnssec_ok ? 0x8000 : 0);
    append16(out, static_cast<std::uint16_t>(options.options.size()));
    out.insert(out.end(), options.options.begin(), options.options.end());
  }
  return out;
}

inline std::string rr_text(const ldns_rr* rr) {
  char* raw = ldns_rr2str(rr);  // null: rdata that ldns cannot put into words
  std::string text{raw != nullptr ? raw : "(unprintable)"};
  free(raw);
  std::replace(text.begin(), text.end(), '\t', ' ');
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

struct Reply {
  bool parsed = false;
  std::size_t size = 0;
  std::uint16_t id = 0;
  int code = -1;
  bool aa = false, tc = false, ad = false, ra = false, qr = false;
  std::string question;                                    // as sent back, case kept
  std::vector<std::string> answer, authority, additional;  // "owner ttl class type rdata"
  bool edns = false;
  std::uint16_t edns_size = 0;
  std::uint8_t extended = 0;

  // Rdata of the answer section only: what an application would use.
  [[nodiscard]] std::vector<std::string> rdata() const {
    std::vector<std::string> out;
    for (const auto& text : answer) {
      std::size_t at = 0;
      for (int i = 0; i < 4; ++i) at = text.find(' ', at) + 1;
      out.push_back(text.substr(at));
    }
    return out;
  }
  [[nodiscard]] bool mentions(std::string_view what) const {
    for (const auto* section : {&answer, &authority, &additional})
      for (const auto& text : *section)
        if (text.find(what) != std::string::npos) return true;
    return false;
  }
};

inline Reply read_reply(Bytes wire) {
  Reply out;
  out.size = wire.size();
  ldns_pkt* raw = nullptr;
  if (wire.empty() || ldns_wire2pkt(&raw, wire.data(), wire.size()) != LDNS_STATUS_OK) return out;
  const std::unique_ptr<ldns_pkt, void (*)(ldns_pkt*)> packet{raw, ldns_pkt_free};
  out.parsed = true;
  out.id = ldns_pkt_id(raw);
  out.code = ldns_pkt_get_rcode(raw);
  out.aa = ldns_pkt_aa(raw);
  out.tc = ldns_pkt_tc(raw);
  out.ad = ldns_pkt_ad(raw);
  out.ra = ldns_pkt_ra(raw);
  out.qr = ldns_pkt_qr(raw);
  out.edns = ldns_pkt_edns(raw);
  out.edns_size = ldns_pkt_edns_udp_size(raw);
  out.extended = ldns_pkt_edns_extended_rcode(raw);
  if (const ldns_rr_list* list = ldns_pkt_question(raw); list != nullptr && ldns_rr_list_rr_count(list) == 1) {
    char* name = ldns_rdf2str(ldns_rr_owner(ldns_rr_list_rr(list, 0)));
    out.question = name != nullptr ? name : "(unprintable)";
    free(name);
  }
  const auto texts = [](const ldns_rr_list* list) {
    std::vector<std::string> all;
    for (std::size_t i = 0; list != nullptr && i < ldns_rr_list_rr_count(list); ++i)
      all.push_back(rr_text(ldns_rr_list_rr(list, i)));
    return all;
  };
  out.answer = texts(ldns_pkt_answer(raw));
  out.authority = texts(ldns_pkt_authority(raw));
  out.additional = texts(ldns_pkt_additional(raw));
  return out;
}

struct Sections {
  std::vector<const char*> answer{}, authority{}, additional{};
  int code = LDNS_RCODE_NOERROR;
  bool ad = false;
  bool tc = false;
  bool edns = false;
};

// An upstream's or gateway's answer to `query` (its id and question, in its case), by ldns.
inline Wire make_answer(Bytes query, const Sections& sections) {
  ldns_pkt* packet = nullptr;
  EXPECT_EQ(ldns_wire2pkt(&packet, query.data(), query.size()), LDNS_STATUS_OK);
  ldns_pkt_set_qr(packet, true);
  ldns_pkt_set_ra(packet, true);
  ldns_pkt_set_ad(packet, sections.ad);
  ldns_pkt_set_tc(packet, sections.tc);
  ldns_pkt_set_rcode(packet, static_cast<std::uint8_t>(sections.code));
  if (!sections.edns) {
    ldns_pkt_set_edns_udp_size(packet, 0);
    ldns_pkt_set_edns_do(packet, false);
    if (ldns_pkt_edns_data(packet) != nullptr) {
      ldns_rdf_deep_free(ldns_pkt_edns_data(packet));
      ldns_pkt_set_edns_data(packet, nullptr);
    }
  } else {
    ldns_pkt_set_edns_udp_size(packet, 1232);
  }
  const auto add = [&](ldns_pkt_section section, const std::vector<const char*>& records) {
    for (const char* text : records) {
      ldns_rr* rr = nullptr;
      ASSERT_EQ(ldns_rr_new_frm_str(&rr, text, 0, nullptr, nullptr), LDNS_STATUS_OK) << text;
      ldns_pkt_push_rr(packet, section, rr);
    }
  };
  add(LDNS_SECTION_ANSWER, sections.answer);
  add(LDNS_SECTION_AUTHORITY, sections.authority);
  add(LDNS_SECTION_ADDITIONAL, sections.additional);
  std::uint8_t* bytes = nullptr;
  std::size_t size = 0;
  EXPECT_EQ(ldns_pkt2wire(&bytes, packet, &size), LDNS_STATUS_OK);
  Wire out{bytes, bytes + size};
  free(bytes);
  ldns_pkt_free(packet);
  // ldns does not keep the case of the question: take it from the query.
  std::size_t at = kHeaderSize;
  const std::size_t end = read_name(query, at) ? at : kHeaderSize;
  std::copy(query.begin() + kHeaderSize, query.begin() + static_cast<std::ptrdiff_t>(end), out.begin() + kHeaderSize);
  return out;
}

inline Endpoint endpoint(const char* text) {
  return Endpoint::parse(text).value();
}

inline const Endpoint kUpstream = endpoint("198.51.100.53:53");
inline const Endpoint kSecond = endpoint("[2001:db8::53]:53");

// A resolver with two upstreams and `**.corp.example`, under virtual time.
struct Bench {
  explicit Bench(std::vector<DnsResource> resources = {{"corp", "**.corp.example", IpStack::dual}},
                 StubResolverConfig config = {}, NameMapConfig map = {})
      : names(map, random), resolver(config, names, random) {
    EXPECT_TRUE(resolver.set_resources(std::move(resources), now).empty());
    resolver.set_upstreams({kUpstream, kSecond}, now);
  }

  void pass(Duration duration) {
    now.monotonic += duration;
    now.wall.seconds += static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(duration).count());
  }

  void collect() {
    while (auto output = resolver.poll_output()) {
      if (auto* answer = std::get_if<Answer>(&*output)) answers.push_back(std::move(*answer));
      if (auto* send = std::get_if<UpstreamSend>(&*output)) sends.push_back(std::move(*send));
      if (auto* close = std::get_if<UpstreamClose>(&*output)) closed.push_back(close->exchange);
      if (auto* asked = std::get_if<GatewayQuery>(&*output)) gateway.push_back(std::move(*asked));
    }
  }

  // The answer at once, if any.
  Reply ask(const Wire& query, const Client& client = {}) {
    const Bytes out = resolver.handle_query(query, client, now);
    const Reply reply = read_reply(out);
    EXPECT_EQ(reply.parsed, !out.empty());
    collect();
    return reply;
  }
  Reply ask(std::string_view name, std::uint16_t type, const QueryOptions& options = {}) {
    return ask(make_query(name, type, options));
  }

  void upstream(const UpstreamSend& send, const Wire& message) {
    resolver.handle_upstream(send.exchange, send.upstream, message, now);
    collect();
  }
  void upstream(const UpstreamSend& send, const Sections& sections) {
    upstream(send, make_answer(send.message, sections));
  }
  // Asks, and has the upstream answer like that.
  Reply resolve(std::string_view name, std::uint16_t type, const Sections& sections, const QueryOptions& options = {}) {
    const Reply direct = ask(name, type, options);
    if (direct.parsed) return direct;
    EXPECT_FALSE(sends.empty());
    if (sends.empty()) return {};
    const UpstreamSend send = sends.back();
    upstream(send, sections);
    return last_answer();
  }
  Reply last_answer() const { return answers.empty() ? Reply{} : read_reply(answers.back().message); }

  void timeout() {
    const Instant at = resolver.poll_timeout().at;
    ASSERT_NE(at, kNever);
    if (at > now.monotonic) pass(at - now.monotonic);
    resolver.handle_timeout(now);
    collect();
  }

  ProxyAddresses proxies(std::string_view name) const {
    const auto* found = names.find(name);
    return found == nullptr ? ProxyAddresses{} : *found;
  }

  SeededRandom random;
  Now now{Instant{std::chrono::hours{1}}, {1'700'000'000, 0}};
  NameMap names;
  StubResolver resolver;
  std::vector<Answer> answers;
  std::vector<UpstreamSend> sends;
  std::vector<std::uint64_t> closed;
  std::vector<GatewayQuery> gateway;
};

}  // namespace penstock::dns
