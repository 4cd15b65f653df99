#include "dataplane/runtime/numa.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <string>

namespace penstock::runtime {
namespace {

constexpr unsigned kLargestNode = 1023;  // that Linux may have

}  // namespace

std::optional<unsigned> node_of_cpu(unsigned cpu) {
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator("/sys/devices/system/cpu/cpu" + std::to_string(cpu), error)) {
    const std::string name = entry.path().filename();
    unsigned node = 0;
    const char* const end = name.data() + name.size();
    if (name.starts_with("node") && std::from_chars(name.data() + 4, end, node).ptr == end && name.size() > 4 &&
        node <= kLargestNode)
      return node;
  }
  return std::nullopt;
}

OnNode::OnNode(std::optional<unsigned> node) {
  if (!node || *node >= kMaxNodes) return;
  if (::syscall(SYS_get_mempolicy, &mode_before_, nodes_before_.data(), kMaxNodes + 1UL, nullptr, 0UL) != 0) return;
  Nodes nodes{};
  nodes[*node / kBits] = 1UL << (*node % kBits);
  set_ = ::syscall(SYS_set_mempolicy, MPOL_PREFERRED, nodes.data(), kMaxNodes + 1UL) == 0;
}

OnNode::~OnNode() {
  if (set_) static_cast<void>(::syscall(SYS_set_mempolicy, mode_before_, nodes_before_.data(), kMaxNodes + 1UL));
}

}  // namespace penstock::runtime
