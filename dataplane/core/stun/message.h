// STUN and TURN messages: strict parser, builder, ChannelData.
//
// Parsing takes a span and returns a view into it or a reason; it accepts only datagrams that are exactly one message
// (RFC 8489 §5: cookie, length a multiple of four, attributes that fill the body with their padding). Building writes
// into a buffer of the caller's and cannot overflow it: a builder that ran out of room stays `!ok()` and yields
// nothing. No state, no clock, no allocation, any thread.
//
// RFC 8489 (STUN), RFC 8656 (TURN), RFC 8016 (mobility). Long-term credentials use the MD5 key of RFC 8489 §9.2.2 with
// MESSAGE-INTEGRITY (what coturn speaks) or MESSAGE-INTEGRITY-SHA256.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::stun {

inline constexpr std::uint32_t kMagicCookie = 0x2112a442;
inline constexpr std::size_t kHeaderSize = 20;
inline constexpr std::size_t kChannelDataHeaderSize = 4;
// A Send or Data indication around a payload: header, XOR-PEER-ADDRESS (12 or 24 with its header) and DATA's header.
inline constexpr std::size_t kIndicationOverheadV4 = 36;
inline constexpr std::size_t kIndicationOverheadV6 = 48;
inline constexpr std::uint16_t kFirstChannel = 0x4000;  // RFC 8656 §12
inline constexpr std::uint16_t kLastChannel = 0x4fff;
inline constexpr std::uint8_t kProtocolUdp = 17;

using TransactionId = std::array<std::uint8_t, 12>;
using LongTermKey = std::array<std::uint8_t, 16>;

enum class Class : std::uint8_t { request = 0, indication = 1, success = 2, error = 3 };

enum class Method : std::uint16_t {
  binding = 0x001,
  allocate = 0x003,
  refresh = 0x004,
  send = 0x006,
  data = 0x007,
  create_permission = 0x008,
  channel_bind = 0x009,
};

enum class Attribute : std::uint16_t {
  mapped_address = 0x0001,
  username = 0x0006,
  message_integrity = 0x0008,
  error_code = 0x0009,
  unknown_attributes = 0x000a,
  channel_number = 0x000c,
  lifetime = 0x000d,
  xor_peer_address = 0x0012,
  data = 0x0013,
  realm = 0x0014,
  nonce = 0x0015,
  xor_relayed_address = 0x0016,
  requested_address_family = 0x0017,
  even_port = 0x0018,
  requested_transport = 0x0019,
  dont_fragment = 0x001a,
  message_integrity_sha256 = 0x001c,
  password_algorithm = 0x001d,
  userhash = 0x001e,
  xor_mapped_address = 0x0020,
  reservation_token = 0x0022,
  additional_address_family = 0x8000,
  address_error_code = 0x8001,
  password_algorithms = 0x8002,
  alternate_domain = 0x8003,
  icmp = 0x8004,
  software = 0x8022,
  alternate_server = 0x8023,
  fingerprint = 0x8028,
  mobility_ticket = 0x8030,
};

enum class AddressFamily : std::uint8_t { ipv4 = 0x01, ipv6 = 0x02 };

[[nodiscard]] constexpr AddressFamily family_of(const IpAddress& address) {
  return address.is_v4() ? AddressFamily::ipv4 : AddressFamily::ipv6;
}

struct ErrorCode {
  std::uint16_t code = 0;  // 300–699
  std::string_view reason;
};

enum class ParseError : std::uint8_t {
  none,
  too_short,
  not_stun,     // leading bits or cookie
  length,       // header's length is not the datagram's, or no multiple of four
  attribute,    // an attribute or its padding runs over the end
  order,        // something other than MESSAGE-INTEGRITY-SHA256 or FINGERPRINT behind MESSAGE-INTEGRITY
  fingerprint,  // FINGERPRINT present but wrong or not last
};

// A parsed message. Views the datagram it was parsed from, which must outlive it. Where an attribute occurs twice the
// first counts (RFC 8489 §14). Typed getters: nullopt when absent or malformed.
class Message {
 public:
  static std::optional<Message> parse(Bytes datagram, ParseError* error = nullptr);

  [[nodiscard]] Class message_class() const { return class_; }
  [[nodiscard]] Method method() const { return method_; }
  [[nodiscard]] const TransactionId& transaction_id() const { return transaction_id_; }
  [[nodiscard]] bool is(Class c, Method m) const { return class_ == c && method_ == m; }

  // Value without padding.
  [[nodiscard]] std::optional<Bytes> find(Attribute type) const;
  [[nodiscard]] bool has(Attribute type) const { return find(type).has_value(); }
  [[nodiscard]] std::optional<std::uint32_t> u32(Attribute type) const;      // LIFETIME
  [[nodiscard]] std::optional<std::string_view> text(Attribute type) const;  // REALM, NONCE, USERNAME, SOFTWARE
  // XOR-MAPPED-, XOR-PEER-, XOR-RELAYED-ADDRESS. A v4-mapped address in the IPv6 form is malformed.
  [[nodiscard]] std::optional<Endpoint> xor_address(Attribute type) const;
  // MAPPED-ADDRESS, ALTERNATE-SERVER.
  [[nodiscard]] std::optional<Endpoint> plain_address(Attribute type) const;
  [[nodiscard]] std::optional<ErrorCode> error_code() const;
  [[nodiscard]] std::optional<std::uint16_t> channel_number() const;  // only 0x4000–0x4fff
  // What a Binding response says about us: XOR-MAPPED-ADDRESS, else MAPPED-ADDRESS.
  [[nodiscard]] std::optional<Endpoint> mapped_address() const;

  // Calls f(type, value) for every attribute in order, duplicates included.
  template <typename F>
  void for_each(F&& f) const {
    Attribute type{};
    Bytes value;
    for (std::size_t at = kHeaderSize; next_attribute(at, type, value);) f(type, value);
  }
  // The first comprehension-required attribute (type < 0x8000) that this file does not list; 0 when there is none.
  [[nodiscard]] std::uint16_t unknown_required() const;

  // Whether MESSAGE-INTEGRITY (or -SHA256) is present and right. Constant-time comparison.
  [[nodiscard]] bool check_integrity(Bytes key) const;
  [[nodiscard]] bool check_integrity_sha256(Bytes key) const;
  [[nodiscard]] bool has_fingerprint() const { return has(Attribute::fingerprint); }

  [[nodiscard]] Bytes bytes() const { return bytes_; }

 private:
  bool next_attribute(std::size_t& at, Attribute& type, Bytes& value) const;
  [[nodiscard]] std::optional<Endpoint> address(Attribute type, bool is_xor) const;

  Bytes bytes_;
  Class class_{};
  Method method_{};
  TransactionId transaction_id_{};
};

// Whether a datagram is to be handed to Message::parse: top bits zero, cookie, length that fits exactly. Costs a few
// loads; WireGuard is classified first (protocol.md).
[[nodiscard]] bool looks_like_stun(Bytes datagram);

// MD5(username ":" realm ":" password), RFC 8489 §9.2.2.
[[nodiscard]] LongTermKey long_term_key(std::string_view username, std::string_view realm, std::string_view password);

// Writes one message into `buffer`. Attributes appear in the order of the calls; integrity and fingerprint come last.
class MessageBuilder {
 public:
  MessageBuilder(MutableBytes buffer, Class message_class, Method method, const TransactionId& transaction_id);

  MessageBuilder& add(Attribute type, Bytes value);
  MessageBuilder& add_text(Attribute type, std::string_view value);
  MessageBuilder& add_u32(Attribute type, std::uint32_t value);
  MessageBuilder& add_xor_address(Attribute type, const Endpoint& endpoint);
  MessageBuilder& add_plain_address(Attribute type, const Endpoint& endpoint);
  MessageBuilder& add_error_code(std::uint16_t code, std::string_view reason);
  MessageBuilder& add_unknown_attributes(std::span<const std::uint16_t> types);
  MessageBuilder& add_channel_number(std::uint16_t channel);
  MessageBuilder& add_requested_transport(std::uint8_t protocol = kProtocolUdp);
  MessageBuilder& add_address_family(AddressFamily family);  // REQUESTED-ADDRESS-FAMILY
  MessageBuilder& add_integrity(Bytes key);
  MessageBuilder& add_integrity_sha256(Bytes key);
  MessageBuilder& add_fingerprint();

  [[nodiscard]] bool ok() const { return ok_; }
  // The message so far; empty when it did not fit.
  [[nodiscard]] Bytes bytes() const { return ok_ ? Bytes{buffer_.data(), size_} : Bytes{}; }

 private:
  // Room for a value of `size` bytes with header and zeroed padding; header's length updated. nullptr: no room.
  std::uint8_t* append(Attribute type, std::size_t size);
  void set_length(std::size_t body);

  MutableBytes buffer_;
  TransactionId transaction_id_;
  std::size_t size_ = 0;
  bool ok_ = false;
};

// Messages that carry no credentials. Each returns the written part of `out`, empty when `out` is too small; 64 bytes
// always suffice.
Bytes build_binding_request(MutableBytes out, const TransactionId& transaction_id);
// What a hole is punched with; never answered.
Bytes build_binding_indication(MutableBytes out, const TransactionId& transaction_id);
Bytes build_binding_response(MutableBytes out, const TransactionId& transaction_id, const Endpoint& mapped);

struct ChannelData {
  std::uint16_t channel = 0;
  Bytes data;
};
// nullopt when the first bytes are no channel number or the length runs over the end. Up to three bytes of padding
// behind the data are tolerated over UDP (RFC 8656 §12.5).
[[nodiscard]] std::optional<ChannelData> parse_channel_data(Bytes datagram);
// Writes the four bytes that precede `length` bytes of data.
void write_channel_header(std::uint8_t* to, std::uint16_t channel, std::size_t length);

// Over a stream (TURN over TCP or TLS): size of the frame that begins at `stream`, padding of ChannelData included.
// 0: more bytes are needed to tell; nullopt: not STUN, the connection is beyond repair.
[[nodiscard]] std::optional<std::size_t> stream_frame_size(Bytes stream);

}  // namespace penstock::stun
