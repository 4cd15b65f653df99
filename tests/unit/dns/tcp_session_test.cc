#include "controlplane/core/dns/tcp_session.h"

#include <gtest/gtest.h>
// rapidcheck/gtest.h needs gtest before it
#include <rapidcheck/gtest.h>

#include "dns_testing.h"

namespace penstock::dns {
namespace {

const Instant kStart{std::chrono::hours{1}};

Wire framed(const Wire& message) {
  Wire out(2 + message.size());
  store16(out, 0, static_cast<std::uint16_t>(message.size()));
  std::copy(message.begin(), message.end(), out.begin() + 2);
  return out;
}

TEST(TcpSession, PipelinedQueriesAndAnswersOutOfOrder) {
  TcpSession session{kStart};
  Wire stream = framed({1, 1});
  const Wire second = framed({2, 2, 2});
  stream.insert(stream.end(), second.begin(), second.end());
  session.push(stream, kStart);
  EXPECT_EQ(session.next_query(), (Wire{1, 1}));
  EXPECT_EQ(session.next_query(), (Wire{2, 2, 2}));
  EXPECT_FALSE(session.next_query());
  session.answer(Wire{9, 9}, kStart);
  session.answer(Wire{}, kStart);
  EXPECT_EQ(session.outstanding(), 0U);
  EXPECT_EQ(Wire(session.unwritten().begin(), session.unwritten().end()), (Wire{0, 2, 9, 9}));
  session.written(3, kStart);
  EXPECT_EQ(session.unwritten().size(), 1U);
}

TEST(TcpSession, StopsReadingFromAClientThatAsksTooMuchOrReadsNothing) {
  TcpSession session{kStart, {.max_outstanding = 2, .max_unwritten = 100}};
  for (int i = 0; i < 3; ++i) session.push(framed({7}), kStart);
  EXPECT_TRUE(session.next_query() && session.next_query());
  EXPECT_FALSE(session.next_query());
  EXPECT_FALSE(session.wants_read());
  session.answer(Wire(10, 0), kStart);
  EXPECT_TRUE(session.next_query());
  session.answer(Wire(100, 0), kStart);
  session.answer(Wire(10, 0), kStart);
  EXPECT_FALSE(session.wants_read());
  session.written(1000, kStart);
  EXPECT_TRUE(session.wants_read());
}

TEST(TcpSession, IdleAfterTenSecondsOfSilence) {
  TcpSession session{kStart};
  EXPECT_EQ(session.idle_deadline(), kStart + std::chrono::seconds{10});
  session.push(Wire{0}, kStart + std::chrono::seconds{5});
  EXPECT_EQ(session.idle_deadline(), kStart + std::chrono::seconds{15});
}

RC_GTEST_PROP(TcpSessionProperties, AnyCutOfTheStreamGivesTheSameQueries, ()) {
  const auto messages = *rc::gen::container<std::vector<Wire>>(rc::gen::arbitrary<Wire>());
  Wire stream;
  std::vector<Wire> wanted;
  for (const Wire& message : messages) {
    const Wire one = framed(message);
    stream.insert(stream.end(), one.begin(), one.end());
    if (!message.empty()) wanted.push_back(message);
  }
  TcpSession session{kStart};
  std::vector<Wire> got;
  for (std::size_t at = 0; at < stream.size();) {
    const std::size_t size = std::min<std::size_t>(*rc::gen::inRange<std::size_t>(1, 40), stream.size() - at);
    session.push(Bytes{stream}.subspan(at, size), kStart);
    at += size;
    while (auto query = session.next_query()) {
      got.push_back(*query);
      session.answer({}, kStart);
    }
  }
  RC_ASSERT(got == wanted);
}

}  // namespace
}  // namespace penstock::dns
