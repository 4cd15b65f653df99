#include "dataplane/core/stun/message.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

namespace penstock::stun {
namespace {

using Buffer = std::vector<std::uint8_t>;

Buffer hex(std::string_view text) {
  Buffer out;
  int high = -1;
  for (char c : text) {
    if (c == ' ' || c == '\n') continue;
    const int digit = c <= '9' ? c - '0' : c - 'a' + 10;
    if (high < 0) {
      high = digit;
    } else {
      out.push_back(static_cast<std::uint8_t>(high << 4 | digit));
      high = -1;
    }
  }
  return out;
}

Bytes key_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

constexpr TransactionId kId{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
constexpr std::string_view kShortTermPassword = "VOkJxbRl1RmTxUk/WvJxBt";

Endpoint endpoint(const char* text) {
  return *Endpoint::parse(text);
}

// RFC 5769 §2.1
TEST(StunVectors, SampleRequest) {
  const Buffer wire =
      hex("0001 0058 2112a442 b7e7a701bc34d686fa87dfae"
          "8022 0010 5354554e207465737420636c69656e74"
          "0024 0004 6e0001ff 8029 0008 932ff9b151263b36"
          "0006 0009 6576746a3a68367659 202020"
          "0008 0014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
          "8028 0004 e57a3bcf");
  const auto message = Message::parse(wire);
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->is(Class::request, Method::binding));
  EXPECT_EQ(message->text(Attribute::software), "STUN test client");
  EXPECT_EQ(message->text(Attribute::username), "evtj:h6vY");
  EXPECT_TRUE(message->check_integrity(key_of(kShortTermPassword)));
  EXPECT_FALSE(message->check_integrity(key_of("wrong")));
  EXPECT_TRUE(message->has_fingerprint());
  EXPECT_EQ(message->unknown_required(), 0x0024);  // PRIORITY belongs to ICE, which we do not speak
}

// RFC 5769 §2.2 and §2.3
TEST(StunVectors, SampleResponses) {
  struct Case {
    const char* wire;
    const char* mapped;
  };
  const Case cases[] = {
      {"0101 003c 2112a442 b7e7a701bc34d686fa87dfae 8022 000b 7465737420766563746f72 20"
       "0020 0008 0001a147e112a643 0008 0014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7 8028 0004 c07d4c96",
       "192.0.2.1:32853"},
      {"0101 0048 2112a442 b7e7a701bc34d686fa87dfae 8022 000b 7465737420766563746f72 20"
       "0020 0014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9 0008 0014 a382954e4be67bf11784c97c8292c275bfe3ed41"
       "8028 0004 c8fb0b4c",
       "[2001:db8:1234:5678:11:2233:4455:6677]:32853"},
  };
  for (const auto& c : cases) {
    const Buffer wire = hex(c.wire);
    const auto message = Message::parse(wire);
    ASSERT_TRUE(message);
    EXPECT_TRUE(message->is(Class::success, Method::binding));
    EXPECT_EQ(message->mapped_address(), endpoint(c.mapped));
    EXPECT_TRUE(message->check_integrity(key_of(kShortTermPassword)));
    EXPECT_EQ(message->text(Attribute::software), "test vector");
  }
}

// RFC 5769 §2.4
TEST(StunVectors, LongTermAuthentication) {
  const Buffer wire =
      hex("0001 0060 2112a442 78ad3433c6ad72c029da412e"
          "0006 0012 e3839ee38388e383aae38383e382afe382b9 0000"
          "0015 001c 662f2f3439396b393534643 64f4c33346f4c3946535476793634734 1"
          "0014 000b 6578616d706c652e6f7267 00"
          "0008 0014 f67024656dd64a3e02b8e0712e85c9a28ca89666");
  const auto message = Message::parse(wire);
  ASSERT_TRUE(message);
  const auto username = message->text(Attribute::username);
  const auto realm = message->text(Attribute::realm);
  ASSERT_TRUE(username && realm);
  EXPECT_EQ(*realm, "example.org");
  EXPECT_EQ(message->text(Attribute::nonce), "f//499k954d6OL34oL9FSTvy64sA");
  EXPECT_TRUE(message->check_integrity(long_term_key(*username, *realm, "TheMatrIX")));
}

TEST(StunMessage, TypeBitsOfEveryMethodAndClass) {
  struct Case {
    Class c;
    Method m;
    unsigned wire;
  };
  const Case cases[] = {
      {Class::request, Method::binding, 0x0001},      {Class::indication, Method::binding, 0x0011},
      {Class::success, Method::binding, 0x0101},      {Class::error, Method::allocate, 0x0113},
      {Class::indication, Method::send, 0x0016},      {Class::indication, Method::data, 0x0017},
      {Class::success, Method::channel_bind, 0x0109}, {Class::request, Method::create_permission, 0x0008},
  };
  for (const auto& c : cases) {
    Buffer buffer(64);
    const Bytes wire = MessageBuilder{buffer, c.c, c.m, kId}.bytes();
    ASSERT_EQ(wire.size(), kHeaderSize);
    EXPECT_EQ(wire[0] << 8 | wire[1], static_cast<int>(c.wire));
    EXPECT_TRUE(Message::parse(wire)->is(c.c, c.m));
  }
}

TEST(StunMessage, RefusesWhatIsNotExactlyOneMessage) {
  Buffer buffer(128);
  MessageBuilder builder{buffer, Class::request, Method::binding, kId};
  builder.add_text(Attribute::software, "x").add_fingerprint();
  const Buffer good{builder.bytes().begin(), builder.bytes().end()};
  ASSERT_TRUE(Message::parse(good));
  ASSERT_TRUE(looks_like_stun(good));

  const auto broken = [&](auto change) {
    Buffer copy = good;
    change(copy);
    ParseError error{};
    EXPECT_FALSE(Message::parse(copy, &error));
    return error;
  };
  EXPECT_EQ(broken([](Buffer& b) { b.resize(19); }), ParseError::too_short);
  EXPECT_EQ(broken([](Buffer& b) { b[0] |= 0x80; }), ParseError::not_stun);
  EXPECT_EQ(broken([](Buffer& b) { b[4] ^= 1; }), ParseError::not_stun);
  EXPECT_EQ(broken([](Buffer& b) { b.push_back(0); }), ParseError::length);
  EXPECT_EQ(broken([](Buffer& b) { b[3] = 3; }), ParseError::length);
  EXPECT_EQ(broken([](Buffer& b) { b[23] = 200; }), ParseError::attribute);
  EXPECT_EQ(broken([](Buffer& b) { b.back() ^= 1; }), ParseError::fingerprint);
  EXPECT_EQ(broken([](Buffer& b) { b[24] ^= 1; }), ParseError::fingerprint);

  // Nothing but integrity and fingerprint may follow the integrity: it would not be covered by it.
  MessageBuilder late{buffer, Class::success, Method::allocate, kId};
  late.add_integrity(key_of("k")).add_u32(Attribute::lifetime, 600);
  ParseError error{};
  EXPECT_FALSE(Message::parse(late.bytes(), &error));
  EXPECT_EQ(error, ParseError::order);
}

TEST(StunMessage, FirstOfRepeatedAttributesCounts) {
  Buffer buffer(128);
  MessageBuilder builder{buffer, Class::success, Method::refresh, kId};
  builder.add_u32(Attribute::lifetime, 1).add_u32(Attribute::lifetime, 2);
  EXPECT_EQ(Message::parse(builder.bytes())->u32(Attribute::lifetime), 1u);
}

TEST(StunMessage, MalformedValuesAreAbsent) {
  Buffer buffer(256);
  const std::uint8_t mapped_in_v6[20] = {0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4};
  const std::uint8_t short_v4[7] = {0, 1, 0, 1, 1, 2, 3};
  const std::uint8_t family3[8] = {0, 3, 0, 1, 1, 2, 3, 4};
  for (Bytes value : {Bytes{mapped_in_v6}, Bytes{short_v4}, Bytes{family3}, Bytes{}}) {
    MessageBuilder builder{buffer, Class::success, Method::binding, kId};
    builder.add(Attribute::mapped_address, value);
    EXPECT_EQ(Message::parse(builder.bytes())->plain_address(Attribute::mapped_address), std::nullopt);
  }
  const std::uint8_t code_7xx[4] = {0, 0, 7, 0};
  const std::uint8_t code_199[4] = {0, 0, 4, 100};
  for (Bytes value : {Bytes{code_7xx}, Bytes{code_199}, Bytes{}}) {
    MessageBuilder builder{buffer, Class::error, Method::allocate, kId};
    builder.add(Attribute::error_code, value);
    EXPECT_FALSE(Message::parse(builder.bytes())->error_code());
  }
  MessageBuilder builder{buffer, Class::request, Method::channel_bind, kId};
  builder.add_channel_number(0x3fff);
  EXPECT_EQ(Message::parse(builder.bytes())->channel_number(), std::nullopt);
}

TEST(StunMessage, BuilderNeverWritesBeyondItsBuffer) {
  for (std::size_t room = 0; room < 120; ++room) {
    Buffer buffer(room + 8, 0xee);
    MessageBuilder builder{MutableBytes{buffer}.first(room), Class::request, Method::allocate, kId};
    builder.add_requested_transport()
        .add_xor_address(Attribute::xor_peer_address, endpoint("[2001:db8::1]:2"))
        .add_text(Attribute::username, "user")
        .add_integrity(key_of("k"))
        .add_fingerprint();
    for (std::size_t i = room; i < buffer.size(); ++i) ASSERT_EQ(buffer[i], 0xee);
    EXPECT_EQ(builder.bytes().empty(), !builder.ok());
    if (builder.ok()) {
      EXPECT_TRUE(Message::parse(builder.bytes())->check_integrity(key_of("k")));
    }
  }
}

TEST(StunMessage, Sha256IntegrityFullAndTruncated) {
  Buffer buffer(256);
  MessageBuilder builder{buffer, Class::request, Method::allocate, kId};
  builder.add_text(Attribute::nonce, "n").add_integrity_sha256(key_of("secret")).add_fingerprint();
  const auto message = Message::parse(builder.bytes());
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->check_integrity_sha256(key_of("secret")));
  EXPECT_FALSE(message->check_integrity_sha256(key_of("Secret")));
  EXPECT_FALSE(message->check_integrity(key_of("secret")));
}

TEST(StunMessage, BindingMessagesAreSmallAndFingerprinted) {
  Buffer buffer(64);
  for (const char* mapped : {"198.51.100.7:1", "[2001:db8::7]:65535"}) {
    const auto response = Message::parse(build_binding_response(buffer, kId, endpoint(mapped)));
    ASSERT_TRUE(response);
    EXPECT_EQ(response->mapped_address(), endpoint(mapped));
    EXPECT_EQ(response->transaction_id(), kId);
  }
  EXPECT_LE(build_binding_request(buffer, kId).size(), 64u);
  EXPECT_TRUE(Message::parse(build_binding_request(buffer, kId))->is(Class::request, Method::binding));
  EXPECT_TRUE(Message::parse(build_binding_indication(buffer, kId))->is(Class::indication, Method::binding));
  EXPECT_TRUE(build_binding_request(MutableBytes{buffer}.first(27), kId).empty());
}

TEST(StunMessage, WireGuardIsNotStun) {
  // Types 1-4 with whatever lengths WireGuard has; only a length of exactly 20 + field could be confused.
  for (std::uint8_t type = 1; type <= 4; ++type)
    for (std::size_t size : {148u, 92u, 64u, 32u, 48u, 1452u}) {
      Buffer message(size, 0);
      message[0] = type;
      message[4] = 0x21, message[5] = 0x12, message[6] = 0xa4, message[7] = 0x42;  // an index that is the cookie
      EXPECT_FALSE(looks_like_stun(message)) << int{type} << " " << size;
    }
}

TEST(ChannelDataTest, LengthsAndNumbers) {
  struct Case {
    const char* wire;
    bool ok;
    std::size_t size;
  };
  const Case cases[] = {
      {"4000 0004 01020304", true, 4},
      {"4fff 0000", true, 0},
      {"4000 0001 01000000", true, 1},
      {"4000 0005 01020304", false, 0},
      {"5000 0004 01020304", false, 0},
      {"3fff 0004 01020304", false, 0},
      {"4000 0001 0100000000", false, 0},
      {"400000", false, 0},
      {"", false, 0},
  };
  for (const auto& c : cases) {
    const Buffer wire = hex(c.wire);
    const auto parsed = parse_channel_data(wire);
    EXPECT_EQ(parsed.has_value(), c.ok) << c.wire;
    if (parsed) {
      EXPECT_EQ(parsed->data.size(), c.size) << c.wire;
    }
  }
}

TEST(StreamFraming, FindsTheEndOfEachFrame) {
  Buffer buffer(64);
  const Bytes request = build_binding_request(buffer, kId);
  EXPECT_EQ(stream_frame_size(request), request.size());
  EXPECT_EQ(stream_frame_size(request.first(8)), request.size());
  EXPECT_EQ(stream_frame_size(request.first(7)), 0u);
  EXPECT_EQ(stream_frame_size(hex("4001 0005")), 12u);  // padded to four bytes over a stream
  EXPECT_EQ(stream_frame_size(hex("4001 00")), 0u);
  EXPECT_EQ(stream_frame_size(hex("8001 0000")), std::nullopt);
  EXPECT_EQ(stream_frame_size(hex("0001 0000 00000000")), std::nullopt);
}

void exercise(Bytes wire) {
  const auto message = Message::parse(wire);
  RC_ASSERT(looks_like_stun(wire) || !message);
  if (message) {
    message->for_each([](Attribute, Bytes value) { RC_ASSERT(value.size() <= 65535u); });
    (void)message->mapped_address();
    (void)message->error_code();
    (void)message->channel_number();
    (void)message->text(Attribute::nonce);
    (void)message->xor_address(Attribute::xor_peer_address);
    (void)message->unknown_required();
    (void)message->check_integrity(key_of("k"));
    (void)message->check_integrity_sha256(key_of("k"));
  }
  (void)parse_channel_data(wire);
  (void)stream_frame_size(wire);
}

RC_GTEST_PROP(StunProperty, NoByteStringCrashes, (const Buffer& wire)) {
  exercise(wire);
}

RC_GTEST_PROP(StunProperty, NoMutationOfAMessageCrashes, ()) {
  Buffer buffer(256);
  MessageBuilder builder{buffer, Class::success, Method::allocate, kId};
  builder.add_xor_address(Attribute::xor_relayed_address, endpoint("198.51.100.1:5000"))
      .add_xor_address(Attribute::xor_mapped_address, endpoint("[2001:db8::1]:5000"))
      .add_u32(Attribute::lifetime, 600)
      .add_error_code(401, "Unauthorized")
      .add_integrity(key_of("k"));
  Buffer wire{builder.bytes().begin(), builder.bytes().end()};
  const auto changes = *rc::gen::inRange(1, 6);
  for (int i = 0; i < changes; ++i)
    wire[*rc::gen::inRange<std::size_t>(0, wire.size())] = *rc::gen::arbitrary<std::uint8_t>();
  wire.resize(*rc::gen::inRange<std::size_t>(0, wire.size() + 1));
  exercise(wire);
}

RC_GTEST_PROP(StunProperty, ParseUndoesBuild, ()) {
  const auto id = *rc::gen::arbitrary<TransactionId>();
  const auto c = static_cast<Class>(*rc::gen::inRange(0, 4));
  const auto m = static_cast<Method>(*rc::gen::inRange(0, 0x1000));
  const auto key = *rc::gen::nonEmpty(rc::gen::arbitrary<Buffer>());
  const auto attributes = *rc::gen::container<std::vector<std::pair<std::uint16_t, Buffer>>>(
      rc::gen::pair(rc::gen::suchThat(rc::gen::arbitrary<std::uint16_t>(),
                                      [](std::uint16_t t) { return t != 8 && t != 0x1c && t != 0x8028; }),
                    rc::gen::arbitrary<Buffer>()));
  const bool integrity = *rc::gen::arbitrary<bool>();
  const bool with_fingerprint = *rc::gen::arbitrary<bool>();
  std::array<std::uint8_t, 16> octets = *rc::gen::arbitrary<std::array<std::uint8_t, 16>>();
  octets[0] |= 0x20;
  const Endpoint six{IpAddress::v6(octets), *rc::gen::arbitrary<std::uint16_t>()};
  const Endpoint four{IpAddress::v4(*rc::gen::arbitrary<std::uint32_t>()), *rc::gen::arbitrary<std::uint16_t>()};

  Buffer buffer(60'000);
  MessageBuilder builder{buffer, c, m, id};
  builder.add_xor_address(Attribute::xor_peer_address, six).add_xor_address(Attribute::xor_relayed_address, four);
  for (const auto& [type, value] : attributes) builder.add(static_cast<Attribute>(type), value);
  RC_PRE(builder.bytes().size() < 1900);
  if (integrity) builder.add_integrity(key);
  if (with_fingerprint) builder.add_fingerprint();

  const auto message = Message::parse(builder.bytes());
  RC_ASSERT(message.has_value());
  RC_ASSERT(message->is(c, m));
  RC_ASSERT(message->transaction_id() == id);
  RC_ASSERT(message->xor_address(Attribute::xor_peer_address) == six);
  RC_ASSERT(message->xor_address(Attribute::xor_relayed_address) == four);
  RC_ASSERT(message->check_integrity(key) == integrity);
  RC_ASSERT(message->has_fingerprint() == with_fingerprint);
  std::vector<std::pair<std::uint16_t, Buffer>> seen;
  message->for_each([&](Attribute type, Bytes value) {
    seen.emplace_back(static_cast<std::uint16_t>(type), Buffer{value.begin(), value.end()});
  });
  seen.erase(seen.begin(), seen.begin() + 2);
  seen.resize(attributes.size());
  RC_ASSERT(seen == attributes);

  Buffer again(60'000);
  MessageBuilder rebuilt{again, c, m, id};
  message->for_each([&](Attribute type, Bytes value) { rebuilt.add(type, value); });
  RC_ASSERT(
      std::equal(rebuilt.bytes().begin(), rebuilt.bytes().end(), message->bytes().begin(), message->bytes().end()));
}

}  // namespace
}  // namespace penstock::stun
