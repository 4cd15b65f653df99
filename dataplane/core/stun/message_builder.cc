#include <algorithm>

#include "dataplane/core/stun/fingerprint.h"
#include "dataplane/core/stun/layout.h"

namespace penstock::stun {

using namespace layout;

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

}  // namespace penstock::stun
