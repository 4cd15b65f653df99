#include "dataplane/runtime/config.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "dataplane/runtime/key_file.h"

namespace penstock::runtime {
namespace {

const std::string kMinimal = R"(
tunnel: {port: wan}
ports:
  - {name: wan, device: "net_af_packet0,iface=gw-wan", addresses: [198.51.100.194/26]}
)";

const std::string kFull = R"(
control: {socket: /tmp/d.sock, allowed_uids: [0, 1000]}
private_key_file: /tmp/key
tunnel: {port: wan, listen_port: 51821, addresses: [198.51.100.194]}
mtu: 1300
dpdk: {hugepages: false, memory_mb: 256, extra_args: ["--single-file-segments"]}
workers: {count: 2, cores: [0, 1], poll: busy}
aead: openssl
blake2s: openssl
handshake_threads: 3
ports:
  - {name: wan, device: "net_af_packet0,iface=gw-wan", addresses: [198.51.100.194/26], mtu: 1500, vlan: 7, mac: "02:00:00:00:00:01"}
  - {name: lan, device: "0000:03:00.0", addresses: [203.0.113.1/24, "2001:db8:1a::1/64"]}
routes:
  - {to: 0.0.0.0/0, via: 198.51.100.193, port: wan}
nat: {source_addresses: [203.0.113.1, "2001:db8:1a::1"], ports: 2000-3000, max_flows: 1000, max_flows_per_peer: 100}
exception: {tap: penstock0}
stun: {servers: ["198.51.100.20:3478"]}
pools: {proxy_v4: 100.96.0.0/12}
static:
  peers:
    - public_key: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="
      tunnel_addresses: [100.64.0.2, "fd00:2021:1111::2"]
      allowed_sources: [10.9.0.0/16]
      endpoint: "198.51.100.130:51820"
      persistent_keepalive: 25s
      authorisations:
        - {resource: lan, cidr: 203.0.113.0/24}
        - {resource: web, address: 203.0.113.80, tcp: [80, "8000-8999"], udp: [], icmp: true}
        - {resource: corp, dns: "**.corp.example"}
      translations:
        - {resource: corp, name: web4.corp.example, proxy_v4: 100.96.0.1, proxy_v6: "fd00:2021:1111:8000::1", addresses: [203.0.113.80]}
)";

std::string error_of(const std::string& text) {
  const ConfigResult result = parse_config(text, "FILE");
  const auto* error = std::get_if<ConfigError>(&result);
  return error == nullptr ? "" : error->to_string();
}

// `text` with the first `from` replaced.
std::string edit(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(Config, DefaultsAreTheDocumentedOnes) {
  const ConfigResult result = parse_config(kMinimal, "FILE");
  ASSERT_TRUE(std::holds_alternative<Config>(result)) << std::get<ConfigError>(result).to_string();
  const Config& config = std::get<Config>(result);
  EXPECT_EQ(config.control_socket, "/run/penstock/dataplane.sock");
  EXPECT_EQ(config.handover, std::chrono::seconds{10});
  EXPECT_EQ(config.allowed_uids, std::vector<std::uint32_t>{0});
  EXPECT_EQ(config.private_key_file, "/var/lib/penstock/dataplane/key");
  EXPECT_EQ(config.path.tunnel.listen_port, 51820);
  EXPECT_EQ(config.path.inner_mtu, 1280);
  EXPECT_EQ(config.hugepages, Hugepages::automatic);
  EXPECT_EQ(config.memory_mb, 512u);
  EXPECT_EQ(config.workers, 1);
  EXPECT_EQ(config.poll, PollMode::adaptive);
  EXPECT_EQ(config.aead, "auto");
  EXPECT_TRUE(config.own_blake2s);
  EXPECT_EQ(config.handshake_threads, 1);
  EXPECT_EQ(config.path.ports[0].mtu, 1500);
  EXPECT_EQ(config.path.nat.first_port, 1024);
  EXPECT_EQ(config.path.nat.max_flows, 262144u);
  EXPECT_TRUE(config.static_operations.empty());
}

TEST(Config, EveryKeyArrives) {
  const ConfigResult result = parse_config(kFull, "FILE");
  ASSERT_TRUE(std::holds_alternative<Config>(result)) << std::get<ConfigError>(result).to_string();
  const Config& config = std::get<Config>(result);
  EXPECT_EQ(config.control_socket, "/tmp/d.sock");
  EXPECT_EQ(config.allowed_uids, (std::vector<std::uint32_t>{0, 1000}));
  EXPECT_EQ(config.path.tunnel.listen_port, 51821);
  EXPECT_EQ(config.path.inner_mtu, 1300);
  EXPECT_EQ(config.hugepages, Hugepages::no);
  EXPECT_EQ(config.eal_arguments, std::vector<std::string>{"--single-file-segments"});
  EXPECT_EQ(config.cores, (std::vector<std::uint16_t>{0, 1}));
  EXPECT_EQ(config.poll, PollMode::busy);
  EXPECT_FALSE(config.own_blake2s);
  EXPECT_EQ(config.handshake_threads, 3);
  EXPECT_EQ(config.path.ports[0].vlan, 7);
  EXPECT_EQ(config.path.ports[0].mac, (MacAddress{2, 0, 0, 0, 0, 1}));
  EXPECT_TRUE(config.devices[0].mac);
  EXPECT_FALSE(config.devices[1].mac);
  EXPECT_EQ(config.devices[1].device, "0000:03:00.0");
  EXPECT_EQ(config.path.ports[1].addresses.size(), 2u);
  ASSERT_EQ(config.path.routes.size(), 1u);
  EXPECT_EQ(config.path.routes[0].via.to_string(), "198.51.100.193");
  EXPECT_EQ(config.path.nat.first_port, 2000);
  EXPECT_EQ(config.path.nat.last_port, 3000);
  EXPECT_EQ(config.exception_tap, "penstock0");
  EXPECT_TRUE(config.path.exception.enabled);
  EXPECT_EQ(config.stun_servers.size(), 1u);
  EXPECT_EQ(config.pools.proxy_v4.to_string(), "100.96.0.0/12");
  ASSERT_EQ(config.static_operations.size(), 5u);
  const auto& peer = std::get<PeerSpec>(config.static_operations[0]);
  EXPECT_EQ(peer.public_key[31], 1);
  EXPECT_EQ(peer.persistent_keepalive_s, 25);
  EXPECT_EQ(peer.extra_sources.size(), 1u);
  const auto& web = std::get<AuthorisationSpec>(config.static_operations[2]);
  EXPECT_EQ(web.filter.tcp, (std::vector<std::pair<std::uint16_t, std::uint16_t>>{{80, 80}, {8000, 8999}}));
  EXPECT_TRUE(web.filter.icmp_echo);
  EXPECT_EQ(std::get<AuthorisationSpec>(config.static_operations[3]).pattern, "**.corp.example");
  EXPECT_EQ(std::get<TranslationSpec>(config.static_operations[4]).name, "web4.corp.example");
}

TEST(Config, EveryErrorNamesFileKeyAndReason) {
  const struct {
    std::string text;
    std::string expected;
  } cases[] = {
      {"", "FILE: ports: is missing"},
      {"[1, 2]", "FILE: must be a map of keys"},
      {"a: [", "FILE: line 1: is not YAML: end of sequence flow not found"},
      {kMinimal + "colour: red\n", "FILE: colour: is not a known key"},
      {kMinimal + "mtu: 1280\nmtu: 1281\n", "FILE: mtu: is given twice"},
      {edit(kMinimal, "{port: wan}", "{port: wan, colour: red}"), "FILE: tunnel.colour: is not a known key"},
      {edit(kMinimal, "tunnel: {port: wan}", ""), "FILE: tunnel: is missing"},
      {edit(kMinimal, "{port: wan}", "{port: lan}"), "FILE: tunnel.port: no port has the name lan"},
      {edit(kMinimal, "name: wan", "name: \"w n\""),
       "FILE: ports[0].name: must be up to 32 letters, digits, '-', '_' and '.'"},
      {edit(kMinimal, "device: \"net_af_packet0,iface=gw-wan\"", "device: eth0"),
       "FILE: ports[0].device: must be a DPDK device (net_af_packet0,iface=eth1) or a PCI address (0000:03:00.0)"},
      {edit(kMinimal, "198.51.100.194/26", "198.51.100.194"),
       "FILE: ports[0].addresses[0]: must be an address with a prefix length (203.0.113.1/24, 2001:db8:1a::1/64)"},
      {edit(kMinimal, "198.51.100.194/26", "198.51.100.194/33"),
       "FILE: ports[0].addresses[0]: must be a whole number from 0 to 32"},
      {edit(kFull, "mtu: 1300", "mtu: 100"), "FILE: mtu: must be a whole number from 1280 to 9000"},
      {edit(kFull, "mtu: 1300", "mtu: big"), "FILE: mtu: must be a whole number from 1280 to 9000"},
      {edit(kFull, "vlan: 7", "vlan: 4095"), "FILE: ports[0].vlan: must be a whole number from 0 to 4094"},
      {edit(kFull, "02:00:00:00:00:01", "03:00:00:00:00:01"),
       "FILE: ports[0].mac: must be a unicast MAC address (02:00:00:00:00:01)"},
      {edit(kFull, "0000:03:00.0", "net_af_packet0,iface=x"),
       "FILE: ports[1].device: is the device of another port too"},
      {edit(kFull, "name: lan", "name: wan"), "FILE: ports[1].name: is the name of another port too"},
      {edit(kFull, "hugepages: false", "hugepages: maybe"), "FILE: dpdk.hugepages: must be auto, true or false"},
      {edit(kFull, "cores: [0, 1]", "cores: [0]"), "FILE: workers.cores: must list one core for each of the 2 workers"},
      {edit(kFull, "cores: [0, 1]", "cores: [1, 1]"), "FILE: workers.cores[1]: is listed twice"},
      {edit(kFull, "poll: busy", "poll: lazy"), "FILE: workers.poll: must be busy or adaptive"},
      {edit(kFull, "aead: openssl", "aead: rot13"), "FILE: aead: must be auto, lanes, ipsec-mb or openssl"},
      {edit(kFull, "blake2s: openssl", "blake2s: auto"), "FILE: blake2s: must be own or openssl"},
      {edit(kFull, "handshake_threads: 3", "handshake_threads: 33"),
       "FILE: handshake_threads: must be a whole number from 0 to 32"},
      {edit(kFull, "to: 0.0.0.0/0", "to: 10.0.0.1/8"),
       "FILE: routes[0].to: must be a prefix without host bits (203.0.113.0/24, 2001:db8::/32)"},
      {edit(kFull, "via: 198.51.100.193", "via: nowhere"), "FILE: routes[0].via: must be an IPv4 or IPv6 address"},
      {edit(kFull, "ports: 2000-3000", "ports: 3000-2000"),
       "FILE: nat.ports: must be a port or a range of ports from 1 to 65535 (80, 8000-8999)"},
      {edit(kFull, "ports: 2000-3000", "ports: 2000-2001"),
       "FILE: nat.ports: must have at least 8 ports for 2 workers"},
      {edit(kFull, "tap: penstock0", "tap: penstock-is-too-long"),
       "FILE: exception.tap: must be an interface name of up to 15 characters"},
      {edit(kFull, "198.51.100.20:3478", "198.51.100.20"),
       "FILE: stun.servers[0]: must be an address and port (198.51.100.1:51820, [2001:db8::1]:51820)"},
      {edit(kFull, "proxy_v4: 100.96.0.0/12", "proxy_v4: \"fd00::/8\""),
       "FILE: pools.proxy_v4: is of the other family"},
      {edit(kFull, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=", "AAAA"),
       "FILE: static.peers[0].public_key: must be a key of 32 bytes in base64"},
      {edit(kFull, "persistent_keepalive: 25s", "persistent_keepalive: 25"),
       "FILE: static.peers[0].persistent_keepalive: must be a duration with a unit (200ms, 5s, 10m, 2h)"},
      {edit(kFull, "persistent_keepalive: 25s", "persistent_keepalive: 25ms"),
       "FILE: static.peers[0].persistent_keepalive: must be whole seconds, up to 65535s"},
      {edit(kFull, "[100.64.0.2, \"fd00:2021:1111::2\"]", "[100.64.0.2, 100.64.0.3]"),
       "FILE: static.peers[0].tunnel_addresses[1]: is a second address of that family"},
      {edit(kFull, "[100.64.0.2, \"fd00:2021:1111::2\"]", "[10.0.0.1]"),
       "FILE: static.peers[0]: tunnel address 10.0.0.1 is not in the pool 100.64.0.0/11"},
      {edit(kFull, "cidr: 203.0.113.0/24", "cidr: 203.0.113.0/24, internet: true"),
       "FILE: static.peers[0].authorisations[0]: needs exactly one of dns, address, cidr and internet"},
      {edit(kFull, "\"8000-8999\"", "\"8000-80000\""),
       "FILE: static.peers[0].authorisations[1].tcp[1]: must be a port or a range of ports from 1 to 65535 (80, "
       "8000-8999)"},
      {edit(kFull, "icmp: true", "icmp: perhaps"),
       "FILE: static.peers[0].authorisations[1].icmp: must be true or false"},
      {edit(kFull, "proxy_v4: 100.96.0.1,", "proxy_v4: 100.64.0.9,"),
       "FILE: static.peers[0].translations[0]: proxy address 100.64.0.9 is not in the pool 100.96.0.0/12"},
      {edit(kFull, "addresses: [203.0.113.80]", "addresses: []"),
       "FILE: static.peers[0].translations[0].addresses: needs at least one address"},
      {edit(kFull, "allowed_sources: [10.9.0.0/16]", "preshared_key_file: /nonexistent/psk"),
       "FILE: static.peers[0].preshared_key_file: /nonexistent/psk cannot be opened: No such file or directory"},
  };
  for (const auto& test : cases) EXPECT_EQ(error_of(test.text), test.expected);
}

TEST(Config, AMissingFileIsAnErrorWithItsName) {
  const ConfigResult result = load_config("/nonexistent/penstock.yaml");
  ASSERT_TRUE(std::holds_alternative<ConfigError>(result));
  EXPECT_EQ(std::get<ConfigError>(result).to_string(),
            "/nonexistent/penstock.yaml: cannot be read: No such file or directory");
}

class KeyFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-key-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory); }
  std::string write(const std::string& text, mode_t mode) {
    const std::string path = directory / "written";
    std::ofstream(path) << text;
    ::chmod(path.c_str(), mode);
    return path;
  }
  static std::string reason(const std::variant<KeyBytes, KeyFileError>& result) {
    const auto* error = std::get_if<KeyFileError>(&result);
    return error == nullptr ? "" : error->reason;
  }
  std::filesystem::path directory;
};

TEST_F(KeyFile, IsMadeOnceWithMode0600) {
  const std::string path = directory / "state" / "key";
  const auto first = read_or_create_private_key(path);
  ASSERT_EQ(reason(first), "");
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(std::get<KeyBytes>(read_or_create_private_key(path)), std::get<KeyBytes>(first));
  EXPECT_EQ(std::get<KeyBytes>(first)[0] & 7, 0);
}

TEST_F(KeyFile, IsRefusedWhenOthersMayReadIt) {
  const std::string path = write(format_key(KeyBytes{1}) + "\n", 0640);
  EXPECT_EQ(reason(read_key_file(path)), path + " may be read by its group or by others; it must have mode 0600");
  EXPECT_EQ(reason(read_or_create_private_key(path)),
            path + " may be read by its group or by others; it must have mode 0600");
}

TEST_F(KeyFile, ErrorsDoNotShowTheContent) {
  const std::string path = write("my secret", 0600);
  EXPECT_EQ(reason(read_key_file(path)), path + " does not hold a key of 32 bytes in base64");
  EXPECT_EQ(reason(read_key_file(directory)), directory.string() + " is not a regular file");
}

TEST(KeyText, RoundTripAndStrictness) {
  KeyBytes key{};
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::uint8_t>(i * 37 + 200);
  EXPECT_EQ(parse_key(format_key(key)), key);
  EXPECT_EQ(format_key(KeyBytes{}), std::string(43, 'A') + "=");
  EXPECT_FALSE(parse_key(""));
  EXPECT_FALSE(parse_key(std::string(44, 'A')));
  EXPECT_FALSE(parse_key(std::string(42, 'A') + "B="));  // spare bits set
  EXPECT_FALSE(parse_key(std::string(42, 'A') + "*="));
}

}  // namespace
}  // namespace penstock::runtime
