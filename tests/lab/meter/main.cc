#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "tests/lab/meter/clock.h"
#include "tests/lab/meter/meter.h"
#include "tests/lab/meter/packet.h"

int main(int argc, char** argv) {
  penstock::meter::Options options;
  CLI::App app{"Numbered packets both ways and a paced download, with a record of each."};
  app.require_subcommand(1);
  CLI::App* client = app.add_subcommand("client", "sends first");
  CLI::App* server = app.add_subcommand("server", "answers");
  client->add_option("--to", options.host, "host name or address")->required();
  client->add_option("--family", options.family, "4 or 6")
      ->transform(CLI::CheckedTransformer(std::map<std::string, int>{{"4", AF_INET}, {"6", AF_INET6}}));
  server->add_option("--bind", options.binds, "addresses")->required();
  client->add_option("--rate", options.rate, "packets a second, each way")->check(CLI::Range(1, 100'000));
  client->add_option("--seconds", options.seconds, "0: until SIGTERM");
  client->add_option("--linger", options.linger, "seconds to wait for what is on its way");
  for (CLI::App* end : {client, server}) {
    end->add_option("--port", options.port);
    end->add_option("--size", options.size, "bytes of payload")
        ->check(CLI::Range(sizeof(penstock::meter::Header), penstock::meter::kLargest));
    end->add_option("--download", options.download, "bytes a second; 0: none");
    end->add_option("--directory", options.directory, "for the records");
  }
  CLI11_PARSE(app, argc, argv);
  if (!penstock::meter::become_prompt())
    std::fprintf(stderr, "meter: no real-time priority: times are the machine's\n");
  return client->parsed() ? penstock::meter::run_client(options) : penstock::meter::run_server(options);
}
