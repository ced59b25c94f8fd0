// The oracle of bench/collectives_simgrid.py: a bucket collective as actors on SimGrid.
//
// stdin: hosts links actors steps; a line a link: bytes/s, seconds; the count of routes and a line
// a route: source, destination, link; a line an actor: host, then for each step the actor it sends
// to and the bytes. In every step an actor sends one message and waits for one: a message starts
// when what it sends has come. stdout: seconds of the simulated time.
#include <cstdio>
#include <memory>
#include <simgrid/s4u.hpp>
#include <string>
#include <vector>

namespace sg4 = simgrid::s4u;

int main(int argc, char** argv) {
  sg4::Engine engine(&argc, argv);
  long hosts, links, actors, steps, routes;
  if (scanf("%ld %ld %ld %ld", &hosts, &links, &actors, &steps) != 4) return 1;
  auto* zone = sg4::create_full_zone("net");
  std::vector<sg4::Host*> host(hosts);
  for (long h = 0; h < hosts; h++) host[h] = zone->create_host("h" + std::to_string(h), 1e9);
  std::vector<sg4::Link*> link(links);
  for (long l = 0; l < links; l++) {
    double bandwidth, latency;
    if (scanf("%lf %lf", &bandwidth, &latency) != 2) return 1;
    link[l] = zone->create_link("l" + std::to_string(l), bandwidth)->set_latency(latency)->seal();
  }
  if (scanf("%ld", &routes) != 1) return 1;
  for (long r = 0; r < routes; r++) {
    long from, to, over;
    if (scanf("%ld %ld %ld", &from, &to, &over) != 3) return 1;
    std::vector<sg4::LinkInRoute> path;
    path.emplace_back(link[over]);
    zone->add_route(host[from]->get_netpoint(), host[to]->get_netpoint(), nullptr, nullptr, path,
                    false);
  }
  zone->seal();
  std::vector<sg4::Mailbox*> box(actors);
  for (long a = 0; a < actors; a++) box[a] = sg4::Mailbox::by_name("b" + std::to_string(a));
  static int token;
  for (long a = 0; a < actors; a++) {
    long at;
    if (scanf("%ld", &at) != 1) return 1;
    auto to = std::make_shared<std::vector<long>>(steps);
    auto bytes = std::make_shared<std::vector<double>>(steps);
    for (long s = 0; s < steps; s++)
      if (scanf("%ld %lf", &(*to)[s], &(*bytes)[s]) != 2) return 1;
    sg4::Actor::create("a" + std::to_string(a), host[at], [&box, a, to, bytes, steps]() {
      for (long s = 0; s < steps; s++) {
        box[(*to)[s]]->put_init(&token, (uint64_t)(*bytes)[s])->detach();
        box[a]->get<int>();
      }
    });
  }
  engine.run();
  printf("%.12g\n", sg4::Engine::get_clock());
  return 0;
}
