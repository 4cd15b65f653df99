#include "dataplane/core/stun/message.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <string>

#include "dataplane/core/stun/fingerprint.h"
#include "dataplane/core/stun/layout.h"

namespace penstock::stun {

using namespace layout;

namespace {

bool known(std::uint16_t type) {
  switch (static_cast<Attribute>(type)) {
    case Attribute::mapped_address:
    case Attribute::username:
    case Attribute::message_integrity:
    case Attribute::error_code:
    case Attribute::unknown_attributes:
    case Attribute::channel_number:
    case Attribute::lifetime:
    case Attribute::xor_peer_address:
    case Attribute::data:
    case Attribute::realm:
    case Attribute::nonce:
    case Attribute::xor_relayed_address:
    case Attribute::requested_address_family:
    case Attribute::even_port:
    case Attribute::requested_transport:
    case Attribute::dont_fragment:
    case Attribute::message_integrity_sha256:
    case Attribute::password_algorithm:
    case Attribute::userhash:
    case Attribute::xor_mapped_address:
    case Attribute::reservation_token:
      return true;
    default:
      return false;
  }
}

}  // namespace

bool looks_like_stun(Bytes datagram) {
  if (datagram.size() < kHeaderSize || (datagram[0] & 0xc0) != 0 || (datagram[3] & 3) != 0) return false;
  return load32(datagram.data() + 4) == kMagicCookie && load16(datagram.data() + 2) + kHeaderSize == datagram.size();
}

std::optional<Message> Message::parse(Bytes datagram, ParseError* error) {
  ParseError ignored;
  ParseError& reason = error ? *error : ignored;
  const auto refuse = [&](ParseError why) {
    reason = why;
    return std::nullopt;
  };
  if (datagram.size() < kHeaderSize) return refuse(ParseError::too_short);
  if ((datagram[0] & 0xc0) != 0 || load32(datagram.data() + 4) != kMagicCookie) return refuse(ParseError::not_stun);
  const std::size_t body = load16(datagram.data() + 2);
  if (body % 4 != 0 || body + kHeaderSize != datagram.size()) return refuse(ParseError::length);

  Message out;
  out.bytes_ = datagram;
  const std::uint16_t type = load16(datagram.data());
  out.class_ = class_of(type);
  out.method_ = method_of(type);
  std::copy_n(datagram.begin() + 8, out.transaction_id_.size(), out.transaction_id_.begin());

  bool after_integrity = false;
  for (std::size_t at = kHeaderSize; at < datagram.size();) {
    if (datagram.size() - at < kAttributeHeader) return refuse(ParseError::attribute);
    const auto attribute = static_cast<Attribute>(load16(datagram.data() + at));
    const std::size_t size = load16(datagram.data() + at + 2);
    if (padded(size) > datagram.size() - at - kAttributeHeader) return refuse(ParseError::attribute);
    if (after_integrity && attribute != Attribute::message_integrity_sha256 && attribute != Attribute::fingerprint)
      return refuse(ParseError::order);
    if (attribute == Attribute::fingerprint) {
      if (size != 4 || at + kAttributeHeader + 4 != datagram.size() ||
          load32(datagram.data() + at + kAttributeHeader) != fingerprint(datagram.first(at)))
        return refuse(ParseError::fingerprint);
    }
    after_integrity = after_integrity || attribute == Attribute::message_integrity ||
                      attribute == Attribute::message_integrity_sha256;
    at += kAttributeHeader + padded(size);
  }
  reason = ParseError::none;
  return out;
}

bool Message::next_attribute(std::size_t& at, Attribute& type, Bytes& value) const {
  if (at + kAttributeHeader > bytes_.size()) return false;
  type = static_cast<Attribute>(load16(bytes_.data() + at));
  const std::size_t size = load16(bytes_.data() + at + 2);
  value = bytes_.subspan(at + kAttributeHeader, size);
  at += kAttributeHeader + padded(size);
  return true;
}

std::optional<Bytes> Message::find(Attribute wanted) const {
  Attribute type{};
  Bytes value;
  for (std::size_t at = kHeaderSize; next_attribute(at, type, value);)
    if (type == wanted) return value;
  return std::nullopt;
}

std::optional<std::uint32_t> Message::u32(Attribute type) const {
  const auto value = find(type);
  if (!value || value->size() != 4) return std::nullopt;
  return load32(value->data());
}

std::optional<std::string_view> Message::text(Attribute type) const {
  const auto value = find(type);
  // RFC 8489 §14: at most 763 bytes for REALM, NONCE and SOFTWARE, 509 for USERNAME; one bound serves all.
  if (!value || value->size() > 763) return std::nullopt;
  return std::string_view{reinterpret_cast<const char*>(value->data()), value->size()};
}

std::optional<Endpoint> Message::address(Attribute type, bool is_xor) const {
  const auto value = find(type);
  if (!value || value->size() < 4) return std::nullopt;
  const bool four = (*value)[1] == static_cast<std::uint8_t>(AddressFamily::ipv4);
  const bool six = (*value)[1] == static_cast<std::uint8_t>(AddressFamily::ipv6);
  const std::size_t length = four ? 4 : 16;
  if ((!four && !six) || value->size() != 4 + length) return std::nullopt;
  std::array<std::uint8_t, 16> mask{};
  if (is_xor) mask = xor_mask(transaction_id_);
  std::array<std::uint8_t, 16> plain{};
  for (std::size_t i = 0; i < length; ++i) plain[i] = (*value)[4 + i] ^ mask[i];
  Endpoint out;
  out.address = IpAddress::from_wire(Bytes{plain}.first(length));
  if (out.address.is_v4() != four) return std::nullopt;
  out.port = static_cast<std::uint16_t>(load16(value->data() + 2) ^ load16(mask.data()));
  return out;
}

std::optional<Endpoint> Message::xor_address(Attribute type) const {
  return address(type, true);
}
std::optional<Endpoint> Message::plain_address(Attribute type) const {
  return address(type, false);
}

std::optional<Endpoint> Message::mapped_address() const {
  if (auto mapped = xor_address(Attribute::xor_mapped_address)) return mapped;
  return plain_address(Attribute::mapped_address);
}

std::optional<ErrorCode> Message::error_code() const {
  const auto value = find(Attribute::error_code);
  if (!value || value->size() < 4) return std::nullopt;
  const unsigned hundreds = (*value)[2] & 7;
  const unsigned number = (*value)[3];
  if (hundreds < 3 || hundreds > 6 || number > 99) return std::nullopt;
  return ErrorCode{static_cast<std::uint16_t>(hundreds * 100 + number),
                   {reinterpret_cast<const char*>(value->data() + 4), value->size() - 4}};
}

std::optional<std::uint16_t> Message::channel_number() const {
  const auto value = u32(Attribute::channel_number);
  if (!value) return std::nullopt;
  const auto channel = static_cast<std::uint16_t>(*value >> 16);
  if (channel < kFirstChannel || channel > kLastChannel) return std::nullopt;
  return channel;
}

std::uint16_t Message::unknown_required() const {
  Attribute type{};
  Bytes value;
  for (std::size_t at = kHeaderSize; next_attribute(at, type, value);) {
    const auto number = static_cast<std::uint16_t>(type);
    if (number < 0x8000 && !known(number)) return number;
  }
  return 0;
}

bool Message::check_integrity(Bytes key) const {
  const auto value = find(Attribute::message_integrity);
  std::array<std::uint8_t, kSha1Size> mac;
  if (!value || value->size() != mac.size()) return false;
  const auto end = static_cast<std::size_t>(value->data() - bytes_.data()) - kAttributeHeader;
  return hmac_prefix(EVP_sha1(), key, bytes_, end, mac.size(), mac.data()) &&
         CRYPTO_memcmp(mac.data(), value->data(), mac.size()) == 0;
}

bool Message::check_integrity_sha256(Bytes key) const {
  const auto value = find(Attribute::message_integrity_sha256);
  std::array<std::uint8_t, kSha256Size> mac;
  // RFC 8489 §14.6 allows truncation to no less than 16 bytes, in steps of four.
  if (!value || value->size() < 16 || value->size() > mac.size() || value->size() % 4 != 0) return false;
  const auto end = static_cast<std::size_t>(value->data() - bytes_.data()) - kAttributeHeader;
  return hmac_prefix(EVP_sha256(), key, bytes_, end, value->size(), mac.data()) &&
         CRYPTO_memcmp(mac.data(), value->data(), value->size()) == 0;
}

LongTermKey long_term_key(std::string_view username, std::string_view realm, std::string_view password) {
  std::string text;
  text.reserve(username.size() + realm.size() + password.size() + 2);
  text.append(username).append(":").append(realm).append(":").append(password);
  LongTermKey key{};
  unsigned size = 0;
  if (EVP_Digest(text.data(), text.size(), key.data(), &size, EVP_md5(), nullptr) != 1) key.fill(0);
  OPENSSL_cleanse(text.data(), text.size());
  return key;
}

std::optional<ChannelData> parse_channel_data(Bytes datagram) {
  if (datagram.size() < kChannelDataHeaderSize) return std::nullopt;
  const std::uint16_t channel = load16(datagram.data());
  const std::size_t length = load16(datagram.data() + 2);
  const std::size_t room = datagram.size() - kChannelDataHeaderSize;
  if (channel < kFirstChannel || channel > kLastChannel || length > room || room - length > 3) return std::nullopt;
  return ChannelData{channel, datagram.subspan(kChannelDataHeaderSize, length)};
}

void write_channel_header(std::uint8_t* to, std::uint16_t channel, std::size_t length) {
  store16(to, channel);
  store16(to + 2, length);
}

std::optional<std::size_t> stream_frame_size(Bytes stream) {
  if (stream.size() < kChannelDataHeaderSize) return 0;
  const std::uint16_t first = load16(stream.data());
  const std::size_t length = load16(stream.data() + 2);
  if (first >= kFirstChannel && first <= kLastChannel) return kChannelDataHeaderSize + padded(length);
  if ((first & 0xc000) != 0 || length % 4 != 0) return std::nullopt;
  if (stream.size() < 8) return 0;
  if (load32(stream.data() + 4) != kMagicCookie) return std::nullopt;
  return kHeaderSize + length;
}

}  // namespace penstock::stun
