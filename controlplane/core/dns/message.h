// DNS messages: constants, a strict bounded reader and a writer with compression.
//
// The reader never allocates more than the records it was given room for (a message is at most 65535 bytes, so at most
// some 6000 records) and gives views by offset into the message; malformed gives nullopt. The writer produces what the
// reader and every other resolver accept. Pure functions. RFC 1035 §4, RFC 3597, RFC 6891.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "controlplane/core/dns/name.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::dns {

namespace type {
inline constexpr std::uint16_t a = 1, ns = 2, cname = 5, soa = 6, wks = 11, ptr = 12, hinfo = 13, minfo = 14, mx = 15,
                               txt = 16, rp = 17, afsdb = 18, rt = 21, sig = 24, px = 26, aaaa = 28, nxt = 30, srv = 33,
                               naptr = 35, kx = 36, a6 = 38, dname = 39, opt = 41, apl = 42, ipseckey = 45, rrsig = 46,
                               svcb = 64, https = 65, l32 = 105, l64 = 106, tsig = 250, ixfr = 251, axfr = 252,
                               any = 255, amtrelay = 260;
}  // namespace type

namespace rcode {
inline constexpr std::uint16_t noerror = 0, formerr = 1, servfail = 2, nxdomain = 3, notimp = 4, refused = 5,
                               badvers = 16;
}  // namespace rcode

namespace flag {
inline constexpr std::uint16_t qr = 0x8000, aa = 0x0400, tc = 0x0200, rd = 0x0100, ra = 0x0080, ad = 0x0020,
                               cd = 0x0010, opcode = 0x7800, rcode = 0x000f;
}  // namespace flag

inline constexpr std::uint16_t kClassIn = 1;
inline constexpr std::uint16_t kClassAny = 255;
inline constexpr std::size_t kHeaderSize = 12;
inline constexpr std::size_t kPlainUdpSize = 512;  // RFC 1035 §2.3.4
inline constexpr std::size_t kMaxUdpSize = 1232;   // fits every path without fragments (DNS flag day 2020)
inline constexpr std::uint16_t kOptionCookie = 10;

struct Header {
  be16 id;
  be16 flags;
  be16 questions;
  be16 answers;
  be16 authorities;
  be16 additionals;
};
static_assert(sizeof(Header) == kHeaderSize);

[[nodiscard]] std::uint16_t load16(Bytes bytes, std::size_t at);
[[nodiscard]] std::uint32_t load32(Bytes bytes, std::size_t at);
void store16(MutableBytes bytes, std::size_t at, std::uint16_t value);
void store32(MutableBytes bytes, std::size_t at, std::uint32_t value);

// Questions in wire form (name, type, class), ignoring the name's case.
[[nodiscard]] bool same_question(Bytes a, Bytes b);

enum class Section : std::uint8_t { answer, authority, additional };

struct Record {
  Section section = Section::answer;
  WireName owner;
  std::uint16_t type = 0;
  std::uint16_t klass = 0;
  std::uint32_t ttl = 0;
  std::size_t at = 0;  // of the owner
  std::size_t ttl_at = 0;
  std::size_t rdata_at = 0;
  std::size_t rdata_size = 0;
  [[nodiscard]] std::size_t end() const { return rdata_at + rdata_size; }
};

struct Message {
  std::uint16_t id = 0;
  std::uint16_t flags = 0;
  bool has_question = false;
  WireName qname;
  std::uint16_t qtype = 0;
  std::uint16_t qclass = 0;
  std::size_t question_end = kHeaderSize;
  std::vector<Record> records;     // all three sections in order
  std::optional<std::size_t> opt;  // index of the OPT record
};

// Strict: at most one question, every record whole, names and the rdata of well-known types well formed, at most one
// OPT (root owner, additional section), nothing behind the end.
[[nodiscard]] std::optional<Message> parse_message(Bytes message);

// One record at `offset` (moved behind it); `section` is the caller's. For walks that need no whole Message.
[[nodiscard]] std::optional<Record> read_record(Bytes message, std::size_t& offset);

// Where the domain names of an rdata are: a string of 'n' (name), digits (that many bytes), 's' (character-string), and
// '*' (the rest). Empty: opaque. `compressible`: names may be compressed when written (RFC 3597 §4).
struct RdataLayout {
  const char* fields = "";
  bool compressible = false;
};
[[nodiscard]] RdataLayout rdata_layout(std::uint16_t type);

// The first name in the rdata of a record (CNAME target, and so on). nullopt: none there.
[[nodiscard]] std::optional<WireName> rdata_name(Bytes message, const Record& record);

class MessageWriter {
 public:
  // Starts with header (id, flags; counts kept up to date) and question.
  MessageWriter(std::uint16_t id, std::uint16_t flags, Bytes qname, std::uint16_t qtype, std::uint16_t qclass);

  // Sections must come in order.
  void add(Section section, Bytes owner, std::uint16_t type, std::uint16_t klass, std::uint32_t ttl, Bytes rdata);
  // rdata is one name.
  void add_name(Section section, Bytes owner, std::uint16_t type, std::uint32_t ttl, Bytes target);
  // A record of another message; names in its rdata are written anew.
  void copy(Bytes message, const Record& record, std::uint32_t ttl);
  // SOA for negative answers, good for `ttl` seconds.
  void add_negative_soa(Bytes zone, std::uint32_t ttl);

  [[nodiscard]] std::vector<std::uint8_t> take() { return std::move(out_); }
  [[nodiscard]] std::size_t size() const { return out_.size(); }

 private:
  void put16(std::uint16_t value);
  void put32(std::uint32_t value);
  void put(Bytes bytes);
  void put_name(Bytes name, bool compress);
  std::size_t begin(Section section, Bytes owner, std::uint16_t type, std::uint16_t klass, std::uint32_t ttl);
  void end(std::size_t length_at);

  std::vector<std::uint8_t> out_;
  std::unordered_map<std::string, std::uint16_t> suffixes_;
};

// Name server and mailbox in the SOA of our own negative answers.
[[nodiscard]] const WireName& own_server_name();

}  // namespace penstock::dns
