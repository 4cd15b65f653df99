#include "dataplane/core/stun/message.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <string>

#include "dataplane/core/stun/fingerprint.h"

namespace penstock::stun {
namespace {

constexpr std::size_t kSha1Size = 20;
constexpr std::size_t kSha256Size = 32;
constexpr std::size_t kAttributeHeader = 4;

std::uint16_t load16(const std::uint8_t* from) {
  return static_cast<std::uint16_t>(from[0] << 8 | from[1]);
}
std::uint32_t load32(const std::uint8_t* from) {
  return std::uint32_t{load16(from)} << 16 | std::uint32_t{load16(from + 2)};
}
void store16(std::uint8_t* to, std::size_t value) {
  to[0] = static_cast<std::uint8_t>(value >> 8);
  to[1] = static_cast<std::uint8_t>(value);
}
void store32(std::uint8_t* to, std::uint32_t value) {
  store16(to, value >> 16);
  store16(to + 2, value & 0xffff);
}

constexpr std::size_t padded(std::size_t size) {
  return (size + 3) & ~std::size_t{3};
}

// RFC 8489 §5: the class bits C1 and C0 stand between the method's bits, at 0x100 and 0x010.
constexpr std::uint16_t message_type(Class c, Method m) {
  const auto method = static_cast<unsigned>(m);
  const auto bits = static_cast<unsigned>(c);
  return static_cast<std::uint16_t>((method & 0x000f) | (method & 0x0070) << 1 | (method & 0x0f80) << 2 |
                                    (bits & 1) << 4 | (bits & 2) << 7);
}
constexpr Method method_of(std::uint16_t type) {
  return static_cast<Method>((type & 0x000f) | (type & 0x00e0) >> 1 | (type & 0x3e00) >> 2);
}
constexpr Class class_of(std::uint16_t type) {
  return static_cast<Class>((type & 0x010) >> 4 | (type & 0x100) >> 7);
}

// What XOR-…-ADDRESS is masked with: cookie, then transaction id (RFC 8489 §14.2).
std::array<std::uint8_t, 16> xor_mask(const TransactionId& transaction_id) {
  std::array<std::uint8_t, 16> mask;
  store32(mask.data(), kMagicCookie);
  std::copy(transaction_id.begin(), transaction_id.end(), mask.begin() + 4);
  return mask;
}

// HMAC over the message up to an integrity attribute at `end`, with the header's length counting up to and including
// that attribute of `value_size` (RFC 8489 §14.5). False only when the library fails.
bool hmac_prefix(const EVP_MD* digest, Bytes key, Bytes message, std::size_t end, std::size_t value_size,
                 std::uint8_t* out) {
  std::array<std::uint8_t, 2048> copy;  // larger messages exist only as indications, which carry no integrity
  if (end > copy.size() || end < kHeaderSize) return false;
  std::copy_n(message.begin(), end, copy.begin());
  store16(copy.data() + 2, end + kAttributeHeader + value_size - kHeaderSize);
  unsigned size = 0;
  return HMAC(digest, key.data(), static_cast<int>(key.size()), copy.data(), end, out, &size) != nullptr;
}

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

MessageBuilder::MessageBuilder(MutableBytes buffer, Class message_class, Method method,
                               const TransactionId& transaction_id)
    : buffer_(buffer), transaction_id_(transaction_id) {
  if (buffer.size() < kHeaderSize) return;
  store16(buffer.data(), message_type(message_class, method));
  store16(buffer.data() + 2, 0);
  store32(buffer.data() + 4, kMagicCookie);
  std::copy(transaction_id.begin(), transaction_id.end(), buffer.begin() + 8);
  size_ = kHeaderSize;
  ok_ = true;
}

void MessageBuilder::set_length(std::size_t body) {
  store16(buffer_.data() + 2, body);
}

std::uint8_t* MessageBuilder::append(Attribute type, std::size_t size) {
  if (!ok_) return nullptr;
  const std::size_t whole = kAttributeHeader + padded(size);
  if (whole > buffer_.size() - size_ || size_ + whole - kHeaderSize > 0xfffc) {
    ok_ = false;
    return nullptr;
  }
  std::uint8_t* at = buffer_.data() + size_;
  std::fill_n(at, whole, std::uint8_t{0});
  store16(at, static_cast<std::uint16_t>(type));
  store16(at + 2, size);
  size_ += whole;
  set_length(size_ - kHeaderSize);
  return at + kAttributeHeader;
}

MessageBuilder& MessageBuilder::add(Attribute type, Bytes value) {
  if (std::uint8_t* to = append(type, value.size())) std::copy(value.begin(), value.end(), to);
  return *this;
}

MessageBuilder& MessageBuilder::add_text(Attribute type, std::string_view value) {
  return add(type, {reinterpret_cast<const std::uint8_t*>(value.data()), value.size()});
}

MessageBuilder& MessageBuilder::add_u32(Attribute type, std::uint32_t value) {
  if (std::uint8_t* to = append(type, 4)) store32(to, value);
  return *this;
}

MessageBuilder& MessageBuilder::add_xor_address(Attribute type, const Endpoint& endpoint) {
  const Bytes address = endpoint.address.wire();
  if (std::uint8_t* to = append(type, 4 + address.size())) {
    const auto mask = xor_mask(transaction_id_);
    to[1] = static_cast<std::uint8_t>(family_of(endpoint.address));
    store16(to + 2, static_cast<std::size_t>(endpoint.port ^ load16(mask.data())));
    for (std::size_t i = 0; i < address.size(); ++i) to[4 + i] = address[i] ^ mask[i];
  }
  return *this;
}

MessageBuilder& MessageBuilder::add_plain_address(Attribute type, const Endpoint& endpoint) {
  const Bytes address = endpoint.address.wire();
  if (std::uint8_t* to = append(type, 4 + address.size())) {
    to[1] = static_cast<std::uint8_t>(family_of(endpoint.address));
    store16(to + 2, endpoint.port);
    std::copy(address.begin(), address.end(), to + 4);
  }
  return *this;
}

MessageBuilder& MessageBuilder::add_error_code(std::uint16_t code, std::string_view reason) {
  if (std::uint8_t* to = append(Attribute::error_code, 4 + reason.size())) {
    to[2] = static_cast<std::uint8_t>(code / 100);
    to[3] = static_cast<std::uint8_t>(code % 100);
    std::copy(reason.begin(), reason.end(), to + 4);
  }
  return *this;
}

MessageBuilder& MessageBuilder::add_unknown_attributes(std::span<const std::uint16_t> types) {
  if (std::uint8_t* to = append(Attribute::unknown_attributes, types.size() * 2))
    for (std::size_t i = 0; i < types.size(); ++i) store16(to + 2 * i, types[i]);
  return *this;
}

MessageBuilder& MessageBuilder::add_channel_number(std::uint16_t channel) {
  return add_u32(Attribute::channel_number, std::uint32_t{channel} << 16);
}

MessageBuilder& MessageBuilder::add_requested_transport(std::uint8_t protocol) {
  return add_u32(Attribute::requested_transport, std::uint32_t{protocol} << 24);
}

MessageBuilder& MessageBuilder::add_address_family(AddressFamily family) {
  return add_u32(Attribute::requested_address_family, std::uint32_t{static_cast<std::uint8_t>(family)} << 24);
}

MessageBuilder& MessageBuilder::add_integrity(Bytes key) {
  const std::size_t end = size_;
  if (std::uint8_t* to = append(Attribute::message_integrity, kSha1Size))
    ok_ = hmac_prefix(EVP_sha1(), key, buffer_, end, kSha1Size, to);
  return *this;
}

MessageBuilder& MessageBuilder::add_integrity_sha256(Bytes key) {
  const std::size_t end = size_;
  if (std::uint8_t* to = append(Attribute::message_integrity_sha256, kSha256Size))
    ok_ = hmac_prefix(EVP_sha256(), key, buffer_, end, kSha256Size, to);
  return *this;
}

MessageBuilder& MessageBuilder::add_fingerprint() {
  const std::size_t end = size_;
  if (std::uint8_t* to = append(Attribute::fingerprint, 4)) store32(to, fingerprint(Bytes{buffer_}.first(end)));
  return *this;
}

Bytes build_binding_request(MutableBytes out, const TransactionId& transaction_id) {
  return MessageBuilder{out, Class::request, Method::binding, transaction_id}.add_fingerprint().bytes();
}

Bytes build_binding_indication(MutableBytes out, const TransactionId& transaction_id) {
  return MessageBuilder{out, Class::indication, Method::binding, transaction_id}.add_fingerprint().bytes();
}

Bytes build_binding_response(MutableBytes out, const TransactionId& transaction_id, const Endpoint& mapped) {
  return MessageBuilder{out, Class::success, Method::binding, transaction_id}
      .add_xor_address(Attribute::xor_mapped_address, mapped)
      .add_fingerprint()
      .bytes();
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
