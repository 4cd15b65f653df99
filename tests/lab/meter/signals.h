// What both ends are told by signals: SIGTERM and SIGINT end one, SIGUSR1 pauses it and lets it go on.
#pragma once

#include <csignal>

namespace penstock::meter {

inline volatile std::sig_atomic_t stopped = 0;
inline volatile std::sig_atomic_t paused = 0;

inline void catch_signals() {
  struct sigaction action{};
  action.sa_handler = [](int) { stopped = 1; };
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  action.sa_handler = [](int) { paused = paused == 0 ? 1 : 0; };
  sigaction(SIGUSR1, &action, nullptr);
}

}  // namespace penstock::meter
