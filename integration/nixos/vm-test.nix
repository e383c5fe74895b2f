# Three NixOS machines with nothing configured but a key to believe: what one has built and signed, the second gets from it,
# and the third from the second once the first has gone. For pkgs.testers.runNixOSTest.
narbor:
{ lib, ... }:
let
  # Of this test, and of nothing else.
  public = "machines.narbor.test-1:wzaXLEZcBvqSeXIR9uq2HWFs1IVBEhdidPQc6gXHakA=";
  secret = "machines.narbor.test-1:PS6fJgREX1qythdrTDU6De7bM/+q8YF3ifHNNPUH4gvDNpcsRlwG+pJ5chH26rYdYWzUhUESF2J09BzqBcdqQA==";

  machine = {
    imports = [ narbor ];
    services.narbor.enable = true;
    virtualisation.writableStore = true;
    nix.settings = {
      substituters = lib.mkForce [ ];
      trusted-public-keys = lib.mkForce [ public ];
      experimental-features = [ "nix-command" ];
    };
  };
in
{
  name = "narbor";

  nodes = {
    alice = machine;
    bob = machine;
    carol = machine;
  };

  testScript = ''
    start_all()
    for m in [alice, bob, carol]:
        m.wait_for_unit("narbor.service")
        m.succeed("narbor wait --for peers=2 --timeout 120s")
        m.succeed("curl -sf http://127.0.0.1:6272/nix-cache-info | grep -x 'Priority: 30'")

    def build(name):
        path = alice.succeed(
            "nix-build --no-out-link -E 'derivation { name = \"%s\"; system = builtins.currentSystem;"
            " builder = \"/bin/sh\"; args = [ \"-c\" \"echo %s > $out\" ]; }'" % (name, name)
        ).strip()
        alice.succeed("nix store sign --key-file /run/secret " + path)
        return path

    alice.succeed("umask 077; echo '${secret}' > /run/secret")
    first, second, third = build("first"), build("second"), build("third")

    with subtest("what a neighbour has comes from it"):
        bob.succeed("nix-store --realise " + first, "nix-store --realise " + second)
        bob.succeed("grep -x first " + first, "nix-store --verify --check-contents")

    with subtest("what nobody has is not found, and that is all"):
        bob.fail("nix-store --realise /nix/store/00000000000000000000000000000000-nothing")
        bob.succeed("systemctl is-active narbor.service")

    with subtest("a kill does not close the port"):
        bob.succeed("systemctl kill --signal=KILL narbor.service")
        bob.succeed("curl -sf http://127.0.0.1:6272/nix-cache-info", "nix-store --realise " + third)

    with subtest("it is passed on by who has fetched it"):
        alice.shutdown()
        carol.succeed("nix-store --realise " + first, "grep -x first " + first)
  '';
}
