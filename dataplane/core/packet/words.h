// Headers read, written and summed by words: what the packet path does with plain packets. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <cstring>

#include "dataplane/core/packet/checksum.h"

namespace penstock::words {

template <typename Word>
Word load(const std::uint8_t* at) {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}
template <typename Word>
void store(std::uint8_t* at, Word word) {
  std::memcpy(at, &word, sizeof word);
}

// 1 or 0, as a number to calculate with: the compiler does not turn what is done with it back into a branch.
inline std::uint32_t one_if(bool condition) {
  std::uint32_t number = condition;
  asm("" : "+r"(number));
  return number;
}

// Six bytes, a MAC address, as a number. By two loads: six bytes copied into a word are written in two parts and read
// as one, which waits until the writes have left the processor's store buffer.
inline std::uint64_t load48(const std::uint8_t* at) {
  return load<std::uint32_t>(at) | std::uint64_t{load<std::uint16_t>(at + 4)} << 32;
}

// To 16 bits, of a sum of a few words (below 2^48).
inline std::uint16_t fold(ChecksumSum sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>((sum & 0xffff) + (sum >> 16));
}

// Sum of an IPv4 header without options: five words.
inline ChecksumSum header_sum(const std::uint8_t* at) {
  return ChecksumSum{load<std::uint32_t>(at)} + load<std::uint32_t>(at + 4) + load<std::uint32_t>(at + 8) +
         load<std::uint32_t>(at + 12) + load<std::uint32_t>(at + 16);
}

}  // namespace penstock::words
