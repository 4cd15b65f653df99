// Candidates between messages and the path code.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "controlplane/core/convert.h"
#include "controlplane/core/paths/types.h"

namespace penstock::client {

[[nodiscard]] inline std::optional<paths::Candidate> read_candidate(const v1::Candidate& message) {
  const auto endpoint = from_proto(message.endpoint());
  if (!endpoint || message.kind() < v1::CANDIDATE_KIND_HOST || message.kind() > v1::CANDIDATE_KIND_RELAYED)
    return std::nullopt;
  return paths::Candidate{static_cast<paths::CandidateKind>(message.kind()), *endpoint};
}

[[nodiscard]] inline bool has_relayed(const std::vector<paths::Candidate>& candidates) {
  return std::any_of(candidates.begin(), candidates.end(), [](const paths::Candidate& candidate) {
    return candidate.kind == paths::CandidateKind::relayed;
  });
}

template <typename Repeated>
[[nodiscard]] std::vector<paths::Candidate> read_candidates(const Repeated& messages) {
  std::vector<paths::Candidate> out;
  for (const v1::Candidate& message : messages)
    if (const auto candidate = read_candidate(message)) out.push_back(*candidate);
  return out;
}

template <typename Repeated>
void write_candidates(const std::vector<paths::Candidate>& candidates, Repeated* messages) {
  for (const paths::Candidate& candidate : candidates)
    *messages->Add() = to_proto(candidate.endpoint, static_cast<v1::CandidateKind>(candidate.kind));
}

}  // namespace penstock::client
