// How queries are written: what is malformed and how that is said; EDNS (RFC 6891) and cookies (RFC 7873).
#include "dns_testing.h"

namespace penstock::dns {
namespace {

TEST(QueryFormat, MalformedQueriesGetFormErrOrSilence) {
  const Wire good = make_query("web.corp.example", type::a);
  const auto with = [&](std::size_t at, std::uint16_t value) {
    Wire out = good;
    store16(out, at, value);
    return out;
  };
  struct Case {
    const char* what;
    Wire query;
    int code;  // -1: silence
  };
  Wire trailing = good;
  trailing.push_back(0);
  Wire no_type = good;
  no_type.resize(good.size() - 4);
  Wire pointer = good;
  pointer[12] = 0xc0;
  Wire label = good;
  label[12] = 0x41;
  Wire two_opts = make_query("web.corp.example", type::a, {.edns_size = 1232});
  two_opts.insert(two_opts.end(), two_opts.end() - 11, two_opts.end());
  store16(two_opts, 10, 2);
  Wire long_name = make_query("", type::a);
  long_name.erase(long_name.begin() + 12, long_name.end());
  for (int i = 0; i < 5; ++i) {
    long_name.push_back(63);
    long_name.insert(long_name.end(), 63, 'a');
  }
  long_name.insert(long_name.end(), {0, 0, 1, 0, 1});
  const Case cases[] = {
      {"empty", {}, -1},
      {"a byte", {0}, -1},
      {"short header", Wire(11, 0), -1},
      {"an answer", with(2, flag::qr | flag::rd), -1},
      {"header alone", Wire(12, 0), LDNS_RCODE_FORMERR},
      {"no question", with(4, 0), LDNS_RCODE_FORMERR},
      {"two questions", with(4, 2), LDNS_RCODE_FORMERR},
      {"with answers", with(6, 1), LDNS_RCODE_FORMERR},
      {"with authority", with(8, 1), LDNS_RCODE_FORMERR},
      {"additional missing", with(10, 1), LDNS_RCODE_FORMERR},
      {"trailing bytes", trailing, LDNS_RCODE_FORMERR},
      {"no type", no_type, LDNS_RCODE_FORMERR},
      {"compressed question", pointer, LDNS_RCODE_FORMERR},
      {"reserved label type", label, LDNS_RCODE_FORMERR},
      {"name too long", long_name, LDNS_RCODE_FORMERR},
      {"two OPT", two_opts, LDNS_RCODE_FORMERR},
      {"bad option", make_query("a.corp.example", type::a, {.edns_size = 512, .options = {0, 10, 0, 9}}),
       LDNS_RCODE_FORMERR},
      {"bad cookie", make_query("a.corp.example", type::a, {.edns_size = 512, .options = {0, 10, 0, 1, 7}}),
       LDNS_RCODE_FORMERR},
      {"OPT as question", make_query("web.corp.example", type::opt), LDNS_RCODE_FORMERR},
      {"status", with(2, 2 << 11), LDNS_RCODE_NOTIMPL},
      {"notify", with(2, 4 << 11), LDNS_RCODE_NOTIMPL},
      {"update", with(2, 5 << 11), LDNS_RCODE_NOTIMPL},
  };
  Bench bench;
  for (const auto& c : cases) {
    const Reply reply = bench.ask(c.query);
    EXPECT_EQ(reply.code, c.code) << c.what;
    if (c.code >= 0) {
      EXPECT_EQ(reply.id, load16(c.query, 0)) << c.what;
    }
  }
  EXPECT_TRUE(bench.sends.empty());
}

TEST(QueryFormat, EdnsIsUnderstood) {
  Bench bench;
  EXPECT_FALSE(bench.ask("web.corp.example", type::a).edns);
  const Reply reply = bench.ask("web.corp.example", type::a, {.edns_size = 4096, .dnssec_ok = true});
  EXPECT_TRUE(reply.edns);
  EXPECT_EQ(reply.edns_size, 1232);
  EXPECT_EQ(reply.answer.size(), 1U);  // and no RRSIG
  const Reply version = bench.ask("web.corp.example", type::a, {.edns_size = 512, .edns_version = 1});
  EXPECT_EQ(version.extended, 1);  // BADVERS is 16
  EXPECT_TRUE(version.answer.empty());
}

TEST(QueryFormat, CookiesComeBack) {
  Bench bench;
  const Wire first = {0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8};
  const Wire query = make_query("web.corp.example", type::a, {.edns_size = 1232, .options = first});
  const Bytes out = bench.resolver.handle_query(query, {}, bench.now);
  ASSERT_TRUE(read_reply(out).parsed);
  const Wire option(out.end() - 20, out.end());
  EXPECT_TRUE(std::equal(first.begin() + 4, first.end(), option.begin() + 4));
  EXPECT_EQ(load16(option, 2), 16);  // the client's eight bytes and eight of ours
  // The whole cookie comes back as it was presented.
  const Bytes again = bench.resolver.handle_query(
      make_query("web.corp.example", type::a, {.edns_size = 1232, .options = option}), {}, bench.now);
  EXPECT_TRUE(std::equal(option.begin(), option.end(), again.end() - 20));
}

}  // namespace
}  // namespace penstock::dns
