// A data plane without packets: a real policy store over a sink that only counts, and rows that tests set.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "dataplane/rpc/backend.h"

namespace penstock::rpc {

inline runtime::KeyBytes key(std::uint8_t n) {
  runtime::KeyBytes out{};
  out[0] = n;
  out[31] = 0x40;
  return out;
}
inline IpAddress ip(std::string_view text) {
  return IpAddress::parse(text).value();
}
inline Endpoint endpoint(std::string_view text) {
  return Endpoint::parse(text).value();
}

class CountingSink final : public runtime::PolicySink {
 public:
  void change_peers(std::span<runtime::PeerChange> changes) override {
    for (auto& change : changes) {
      ++peer_changes;
      if (change.kind == runtime::PeerChange::Kind::add) change.peer = next++;
    }
  }
  void publish(std::span<runtime::PolicyPublication> publications, bool wait) override {
    published += publications.size();
    waits += wait ? 1 : 0;
  }
  PeerIndex next = 0;
  std::size_t peer_changes = 0;
  std::size_t published = 0;
  std::size_t waits = 0;
};

class FakeBackend final : public Backend {
 public:
  FakeBackend() : store(sink, runtime::PoolsSpec{}, runtime::PolicyStore::Limits{}, {ip("203.0.113.1")}) {}

  runtime::PolicyStore::Result apply(const runtime::PolicyStore::Batch& batch) override {
    {
      const std::lock_guard lock(mutex);
      sent_before_apply = datagrams.size();
    }
    return store.apply(batch, runtime::PolicyStore::Origin::control);
  }
  std::vector<runtime::PeerSpec> peer_specs() override { return store.peers(); }
  std::vector<runtime::AuthorisationSpec> authorisations() override { return store.authorisations(); }
  std::vector<runtime::TranslationSpec> translations() override { return store.translations(); }
  std::uint64_t generation() override { return store.generation(); }

  void set_stun_servers(std::vector<Endpoint> servers) override {
    const std::lock_guard lock(mutex);
    stun_servers = std::move(servers);
  }
  void send_control(const runtime::KeyBytes& peer, Bytes payload) override {
    const std::lock_guard lock(mutex);
    control.emplace_back(peer, std::string{payload.begin(), payload.end()});
  }
  void send_datagram(std::vector<Endpoint> remotes, Bytes payload) override {
    const std::lock_guard lock(mutex);
    for (const Endpoint& remote : remotes) datagrams.emplace_back(remote, std::string{payload.begin(), payload.end()});
  }
  runtime::EngineInfo info() override {
    runtime::EngineInfo out;
    out.public_key = key(99);
    out.listen_port = 51820;
    out.tunnel_addresses = {ip("198.51.100.194")};
    out.source_addresses = {ip("203.0.113.1"), ip("2001:db8:1a::1")};
    out.own_prefixes = {*Prefix::parse("203.0.113.0/24")};
    out.instance = 4711;
    out.started = Instant{std::chrono::seconds{100}};
    return out;
  }
  gateway::WorkerCounters counters() override { return counted; }
  std::vector<runtime::PeerRow> peers(std::size_t limit) override { return first(peer_rows, limit); }
  runtime::FlowTable flows(std::size_t limit) override {
    runtime::FlowTable out = flow_table;
    out.flows = first(out.flows, limit);
    return out;
  }
  std::vector<gateway::NeighbourView> neighbours(std::size_t limit) override { return first(neighbour_rows, limit); }
  std::vector<runtime::PortRow> ports() override { return port_rows; }
  Instant now() override { return Instant{std::chrono::seconds{160}}; }
  runtime::BoundedQueue<runtime::EngineEvent>& events() override { return event_queue; }
  runtime::BoundedQueue<runtime::Punt>& punts() override { return punt_queue; }

  template <typename Row>
  static std::vector<Row> first(std::vector<Row> rows, std::size_t limit) {
    if (limit != 0 && rows.size() > limit) rows.erase(rows.begin() + static_cast<std::ptrdiff_t>(limit), rows.end());
    return rows;
  }

  CountingSink sink;
  runtime::PolicyStore store;
  // Set before the server starts, or changed only by calls of one test thread between calls.
  std::vector<runtime::PeerRow> peer_rows;
  runtime::FlowTable flow_table;
  std::vector<gateway::NeighbourView> neighbour_rows;
  std::vector<runtime::PortRow> port_rows;
  gateway::WorkerCounters counted;
  runtime::BoundedQueue<runtime::EngineEvent> event_queue{100'000};
  runtime::BoundedQueue<runtime::Punt> punt_queue{1000};

  std::mutex mutex;  // of what follows
  std::vector<Endpoint> stun_servers;
  std::vector<std::pair<runtime::KeyBytes, std::string>> control;
  std::vector<std::pair<Endpoint, std::string>> datagrams;
  std::size_t sent_before_apply = 0;  // datagrams, of the last apply()
};

// A directory of its own, gone with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-rpc-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace penstock::rpc
