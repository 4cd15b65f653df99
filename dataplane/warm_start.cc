#include "dataplane/warm_start.h"

#include <spdlog/spdlog.h>

#include <optional>

#include "dataplane/core/handover/state.h"
#include "dataplane/core/wireguard/keys.h"
#include "dataplane/rpc/rights.h"
#include "dataplane/runtime/clock.h"

namespace penstock {
namespace {

using namespace std::chrono_literals;

constexpr Duration kTooOld = 300s;  // no session lives so long

double milliseconds(Duration length) {
  return std::chrono::duration<double, std::milli>(length).count();
}

std::optional<handover::State> usable_state(io::HandoverLink& link, const runtime::Engine& engine) {
  auto content = link.take();
  if (!content) return std::nullopt;
  auto decoded = handover::decode(*content);
  wireguard::wipe(*content);
  if (const auto* problem = std::get_if<handover::Problem>(&decoded)) {
    spdlog::warn("cold start: {}", handover::text_of(*problem));
    return std::nullopt;
  }
  auto& state = std::get<handover::State>(decoded);
  const Duration age = runtime::read_clock().monotonic - state.at;
  if (state.public_key.bytes != engine.info().public_key) {
    spdlog::warn("cold start: what was left belongs to another private key");
    return std::nullopt;
  }
  if (age < Duration{} || age > kTooOld) {
    spdlog::warn("cold start: what was left is {:.0f} s old", milliseconds(age) / 1000);
    return std::nullopt;
  }
  return std::move(state);
}

}  // namespace

void take_up(io::HandoverLink& link, runtime::Engine& engine, runtime::PolicyStore& store,
             const std::function<void()>& apply_file) {
  auto state = usable_state(link, engine);
  if (state) engine.inherit(*state);
  apply_file();
  if (!state) return;
  auto rights = rpc::decode_rights(state->rights);
  wireguard::wipe(state->rights);
  if (rights) {
    // What does not fit the configuration any more is said again by the control process, which hears then why not.
    const auto applied = store.apply(*rights, runtime::PolicyStore::Origin::control);
    if (!applied.errors.empty())
      spdlog::info("{} of {} entries of the process before are not taken up", applied.errors.size(),
                   rights->operations.size());
  }
  const runtime::WarmStart warm = engine.inherit_flows(*state);
  spdlog::info("warm start: {} sessions of {} peers and {} flows taken up ({} flows left), {:.0f} ms "
               "after the process before",
               warm.sessions, warm.peers, warm.flows, warm.flows_left,
               milliseconds(runtime::read_clock().monotonic - state->at));
}

void leave_behind(io::HandoverLink& link, runtime::Engine& engine, const runtime::PolicyStore& store) {
  if (!link.leaves()) return engine.stop();
  std::vector<std::uint8_t> rights = rpc::encode_rights(store.control_entries());
  engine.stop();
  handover::State state = engine.export_state();
  state.rights = std::move(rights);
  std::vector<std::uint8_t> content = handover::encode(state);
  const std::string problem = link.leave(content);
  wireguard::wipe(content);
  wireguard::wipe(state.rights);
  if (problem.empty())
    spdlog::info("left to the next process: {} peers, {} flows", state.peers.size(), state.flows.size());
  else
    spdlog::warn("nothing is left to the next process: {}", problem);
}

}  // namespace penstock
