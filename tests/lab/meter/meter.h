// lab_meter: two ends that send each other numbered UDP packets at a fixed rate, and a paced TCP download, and write
// down when each packet was sent and received. What `scripts/heal` and `scripts/soak` count with.
//
//   lab_meter server --bind ADDRESS... --port 7000 --directory D   writes up.received and down.sent until SIGTERM
//   lab_meter client --to HOST --port 7000 --directory D ...       writes up.sent, down.received and download
//
// SIGUSR1 pauses an end and lets it go on. The client lingers for what is still on its way and prints a summary.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace penstock::meter {

struct Options {
  std::string host;                 // client
  std::vector<std::string> binds;   // server: its addresses; answers leave from the one that was asked
  int family = 0;  // AF_INET, AF_INET6 or 0
  int port = 7000;
  std::int64_t rate = 1000;  // packets a second, each way
  std::size_t size = 64;     // bytes of UDP payload
  std::int64_t seconds = 0;  // 0: until SIGTERM
  std::int64_t linger = 3;   // seconds
  std::int64_t download = 25'000;  // bytes a second; 0: none
  std::string directory = ".";
};

int run_client(const Options& options);
int run_server(const Options& options);

}  // namespace penstock::meter
