#include "dataplane/core/nat/tcp_state.h"

#include <gtest/gtest.h>

#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::uint8_t S = tcp_flag::syn, A = tcp_flag::ack, F = tcp_flag::fin, R = tcp_flag::rst;
constexpr std::uint8_t SA = S | A, FA = F | A, RA = R | A;
constexpr bool kIn = true, kOut = false;
using T = TcpState;
using L = TcpLifetime;

// RFC 6146 §3.5.2.2, figure 2 and its text, line by line.
TEST(TcpState, EveryTransition) {
  struct Case {
    T from;
    bool from_inside;
    std::uint8_t flags;
    T to;
    L lifetime;
  };
  for (const Case& c : {
           Case{T::init, kIn, S, T::init, L::transitory},
           Case{T::init, kOut, S, T::established, L::established},  // simultaneous open
           Case{T::init, kOut, SA, T::established, L::established},
           Case{T::init, kOut, RA, T::init, L::unchanged},
           Case{T::init, kIn, A, T::init, L::unchanged},
           Case{T::established, kIn, A, T::established, L::established},
           Case{T::established, kOut, A, T::established, L::established},
           Case{T::established, kIn, FA, T::fin_inside, L::established},
           Case{T::established, kOut, FA, T::fin_outside, L::established},
           Case{T::established, kIn, R, T::transitory, L::transitory},
           Case{T::established, kOut, RA, T::transitory, L::transitory},
           Case{T::fin_inside, kIn, FA, T::fin_inside, L::established},
           Case{T::fin_inside, kOut, A, T::fin_inside, L::established},
           Case{T::fin_inside, kOut, FA, T::fin_both, L::transitory},
           Case{T::fin_outside, kOut, FA, T::fin_outside, L::established},
           Case{T::fin_outside, kIn, A, T::fin_outside, L::established},
           Case{T::fin_outside, kIn, FA, T::fin_both, L::transitory},
           Case{T::fin_both, kIn, A, T::fin_both, L::unchanged},
           Case{T::fin_both, kOut, A, T::fin_both, L::unchanged},
           Case{T::fin_both, kIn, S, T::init, L::transitory},
           Case{T::fin_both, kOut, S, T::fin_both, L::unchanged},
           Case{T::transitory, kIn, R, T::transitory, L::unchanged},
           Case{T::transitory, kOut, R, T::transitory, L::unchanged},
           Case{T::transitory, kIn, A, T::established, L::established},
           Case{T::transitory, kOut, A, T::established, L::established},
           Case{T::transitory, kIn, S, T::init, L::transitory},
       }) {
    const TcpStep step = tcp_step(c.from, c.from_inside, c.flags);
    EXPECT_EQ(step.state, c.to) << name_of(c.from) << " " << c.from_inside << " " << int{c.flags};
    EXPECT_EQ(step.lifetime, c.lifetime) << name_of(c.from) << " " << c.from_inside << " " << int{c.flags};
  }
}

TEST(TcpState, OnlyABareSynBegins) {
  EXPECT_TRUE(tcp_begins(S));
  EXPECT_TRUE(tcp_begins(S | 0xc0));  // with ECN's flags (RFC 3168)
  for (const int flags : {int{SA}, int{A}, int{S | F}, int{S | R}, int{R}, 0})
    EXPECT_FALSE(tcp_begins(static_cast<std::uint8_t>(flags))) << flags;
}

}  // namespace
}  // namespace penstock::nat
