#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <future>
#include <thread>

#include "controlplane/core/broker/credentials.h"
#include "controlplane/core/convert.h"
#include "controlplane/io/record_log.h"
#include "controlplane/portal/config.h"
#include "tests/unit/portal/temporary_directory.h"

namespace penstock::portal {
namespace {

using namespace std::chrono_literals;

class PortalConfig : public testing::Test {
 protected:
  PortalConfig() {
    directory_.write("cert", "CERT");
    directory_.write("key", "KEY");
    directory_.write("relay", "  s3cret\n");
  }

  std::variant<Config, ConfigError> load(std::string text) {
    for (const char* name : {"cert", "key", "relay"}) {
      const std::string mark = std::string{"@"} + name;
      for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark))
        text.replace(at, mark.size(), directory_ / name);
    }
    return load_config(directory_.write("portal.yaml", text));
  }
  std::string error(const std::string& text) {
    const auto loaded = load(text);
    const auto* error = std::get_if<ConfigError>(&loaded);
    return error == nullptr ? "loaded" : error->key + ": " + error->reason;
  }

  TemporaryDirectory directory_;
};

constexpr const char* kTls = "tls: {certificate_file: @cert, key_file: @key}\n";

TEST_F(PortalConfig, ReadsEverything) {
  const std::string digest = hex({reinterpret_cast<const char*>(broker::sha256("t").data()), 32});
  const std::string other = hex({reinterpret_cast<const char*>(broker::sha256("u").data()), 32});
  const auto loaded = load(std::string{kTls} + R"(
control: {socket: /tmp/x.sock}
listen: "198.51.100.10:8443"
secret_file: /tmp/secret
relays:
  - {id: r1, udp: ["198.51.100.20:3478"], realm: penstock, shared_secret_file: @relay}
sites: [{id: hq, source_nat: off, mapping: endpoint_independent, filtering: address_dependent}]
gateways: [{id: gw1, site: hq, token_sha256: )" +
                           digest + R"(}]
clients: [{id: a, token_sha256: )" +
                           other + R"(, groups: [staff], tunnel_addresses: [100.64.0.9]}]
resources:
  - {id: corp, site: hq, kind: dns, pattern: "**.corp.example", filter: {tcp: ["80", "8000-8999"], udp: [], icmp: true}, ip_stack: ipv6}
  - {id: net, site: hq, kind: cidr, prefix: 203.0.113.0/24}
policies:
  - {group: staff, resource: corp}
  - {group: staff, resource: net, conditions: {client_ranges: [203.0.113.0/24], expires: 2027-01-31, time_windows: [{days: [mon, fri], from: "08:00", to: "18:30"}]}}
)");
  const auto* error = std::get_if<ConfigError>(&loaded);
  ASSERT_EQ(error, nullptr) << error->key << ": " << error->reason;
  const Config& config = std::get<Config>(loaded);
  EXPECT_EQ(config.listen, "198.51.100.10:8443");
  EXPECT_EQ(config.certificate_pem, "CERT");
  EXPECT_EQ(config.state_file, "/tmp/portal.state");
  EXPECT_EQ(config.broker.relays.at(0).shared_secret, "s3cret");
  const v1::SiteSettings& site = config.broker.site_settings.at("hq");
  EXPECT_EQ(site.source_nat(), v1::SiteSettings::SOURCE_NAT_OFF);
  EXPECT_EQ(site.mapping(), v1::SiteSettings::MAPPING_ENDPOINT_INDEPENDENT);
  EXPECT_EQ(site.filtering(), v1::SiteSettings::FILTERING_ADDRESS_DEPENDENT);
  EXPECT_EQ(config.broker.clients.at("a").fixed.v4.to_string(), "100.64.0.9");
  const v1::Resource& corp = config.broker.resources.at("corp");
  EXPECT_EQ(corp.filter().tcp(1).last(), 8999u);
  EXPECT_TRUE(corp.filter().icmp_echo());
  EXPECT_EQ(corp.ip_stack(), v1::IP_STACK_IPV6);
  EXPECT_FALSE(config.broker.resources.at("net").has_filter());
  const broker::Conditions& conditions = config.broker.policies.at(1).conditions;
  EXPECT_EQ(conditions.expires->seconds, 1801353600u);
  EXPECT_EQ(conditions.time_windows.at(0).days, 0b0100010);
  EXPECT_EQ(conditions.time_windows.at(0).to_minute, 18 * 60 + 30);
}

TEST_F(PortalConfig, ListensOnLoopbackUnlessToldOtherwise) {
  EXPECT_EQ(std::get<Config>(load(kTls)).listen, "127.0.0.1:8443");
}

TEST_F(PortalConfig, NamesKeyAndReasonOfAMistake) {
  struct Case {
    const char* text;
    const char* error;
  };
  for (const Case& c : {
           Case{"", "tls: is missing"},
           Case{"tls: {certificate_file: /nonexistent, key_file: @key}",
                "tls.certificate_file: cannot read /nonexistent"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nsitez: []", "sitez: is not a known key"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nlisten: here", "listen: must be an address and port"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nsites: [{id: a}, {id: a}]",
                "sites[1].id: 'a' is given twice"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nsites: [{id: a, source_nat: maybe}]",
                "sites[0].source_nat: must be one of on, off"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nsites: [{id: a, mapping: endpoint}]",
                "sites[0].mapping: must be one of address_and_port_dependent, endpoint_independent"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nsites: [{id: a, filtering: address_dependent}]",
                "sites.a.filtering: needs mapping: endpoint_independent"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nsites: [{id: a, nat: off}]",
                "sites[0].nat: is not a known key"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nsites: [{id: 'a b'}]",
                "sites[0].id: must be 1 to 64 of A-Z a-z 0-9 . _ -"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nclients: [{id: a, token_sha256: abc}]",
                "clients[0].token_sha256: must be the 64 hexadecimal digits of a SHA-256"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nsites: [{id: s}]\nresources: [{id: r, site: s, kind: "
                "address, "
                "prefix: 10.0.0.0/8}]",
                "resources[0].prefix: must be one address; kind cidr takes prefixes"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\nsites: [{id: s}]\nresources: [{id: r, site: s, kind: "
                "dns, "
                "pattern: 'a..b'}]",
                "resources.r.pattern: not a name pattern"},
           Case{"tls: {certificate_file: @cert, key_file: @key}\npolicies: [{group: g, resource: r}]",
                "policies[0].resource: no resource 'r'"},
           Case{"tls: [", ": line 1: end of sequence flow not found"},
           Case{"just text", ": must be a map of keys"},
       })
    EXPECT_EQ(error(c.text), c.error) << c.text;
}

TEST_F(PortalConfig, SecretIsMadeOnceAndMustBeSecret) {
  const std::string file = directory_ / "deep/secret";
  std::string error;
  const std::string secret = load_secret(file, error);
  EXPECT_EQ(secret.size(), 32u) << error;
  EXPECT_EQ(load_secret(file, error), secret);
  struct stat status {};
  ASSERT_EQ(stat(file.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  chmod(file.c_str(), 0640);
  EXPECT_EQ(load_secret(file, error), "");
  EXPECT_EQ(error, "must have mode 0600; what others could read is no secret");
  EXPECT_EQ(load_secret(directory_.write("short", "abc"), error), "");
}

TEST(RecordLog, RemembersAcrossDamage) {
  const TemporaryDirectory directory;
  const std::string path = directory / "log";
  std::string error;
  {
    const auto log = io::RecordLog::open(path, error);
    ASSERT_NE(log, nullptr) << error;
    log->set("a", "1");
    log->set("b", std::string("\0\n\t", 3));
    log->set("c", "3");
    log->set("c", "");
    ASSERT_TRUE(log->flush(error)) << error;
  }
  std::ofstream{path, std::ios::app} << "torn\tline without an e";
  {
    const auto log = io::RecordLog::open(path, error);
    EXPECT_EQ(log->damaged_lines(), 1u);
    EXPECT_EQ(log->records(), (std::map<std::string, std::string>{{"a", "1"}, {"b", std::string("\0\n\t", 3)}}));
    log->set("d", "4");
    ASSERT_TRUE(log->flush(error));
  }
  {
    const auto log = io::RecordLog::open(path, error);
    EXPECT_EQ(log->records().at("d"), "4");
    for (int i = 0; i < 200; ++i) {
      log->set("a", std::to_string(i));
      ASSERT_TRUE(log->flush(error));
    }
  }
  EXPECT_LT(std::filesystem::file_size(path), 8000u);
  EXPECT_EQ(io::RecordLog::open(path, error)->records().at("a"), "199");
}

// A grant is not held up by the disk, and is in the file all the same when the process is killed.
TEST(RecordLog, DoesNotWaitForABusyDisk) {
  const TemporaryDirectory directory;
  const std::string path = directory / "log";
  std::string error;
  std::promise<void> disk;
  std::atomic<int> synced{0};
  {
    const auto log = io::RecordLog::open(path, error, [&, free = disk.get_future().share()](int) {
      free.wait();
      return ++synced, 0;
    });
    ASSERT_NE(log, nullptr) << error;
    for (int i = 0; i < 20; ++i) {
      log->set("key" + std::to_string(i), "x");
      ASSERT_TRUE(log->flush(error)) << error;
    }
    EXPECT_EQ(synced, 0);
    EXPECT_EQ(io::RecordLog::open(path, error)->records().size(), 20u);
    disk.set_value();
  }
  EXPECT_GE(synced, 1);  // what was flushed last is not left
  EXPECT_LE(synced, 2);  // and what waited was synced together
}

TEST(RecordLog, SyncsOnceWhatComesTogether) {
  const TemporaryDirectory directory;
  std::string error;
  std::atomic<int> synced{0};
  {
    const auto log = io::RecordLog::open(directory / "log", error, [&](int) { return ++synced, 0; });
    ASSERT_NE(log, nullptr) << error;
    for (int i = 0; i < 20; ++i) {
      log->set("key", std::to_string(i));
      ASSERT_TRUE(log->flush(error)) << error;
      std::this_thread::sleep_for(1ms);  // a disk with nothing to do would take each by itself
    }
  }
  EXPECT_GE(synced, 1);
  EXPECT_LE(synced, 2);  // on a machine that takes half a second for this
}

// Linux forgets that a page was dirty when it could not be written: what was in it must be written anew.
TEST(RecordLog, WritesAnewWhatADiskFailedToSync) {
  const TemporaryDirectory directory;
  const std::string path = directory / "log";
  std::string error;
  std::atomic<int> asked{0};
  const auto log = io::RecordLog::open(path, error, [&](int) {
    if (++asked > 1) return 0;
    errno = EIO;
    return -1;
  });
  ASSERT_NE(log, nullptr) << error;
  log->set("a", "1");
  ASSERT_TRUE(log->flush(error)) << error;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{10};
  while (log->flush(error) && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_EQ(error, "cannot sync " + path + ": Input/output error");
  std::ofstream{path, std::ios::trunc};  // the lost page
  log->set("b", "2");
  EXPECT_FALSE(log->flush(error));  // not at once: a disk that is away is not tried with every grant
  EXPECT_EQ(io::RecordLog::open(path, error)->records(), (std::map<std::string, std::string>{{"b", "2"}}));
  while (!log->flush(error) && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(io::RecordLog::open(path, error)->records(),
            (std::map<std::string, std::string>{{"a", "1"}, {"b", "2"}}));
}

}  // namespace
}  // namespace penstock::portal
