# For installation media, netboot and kexec images: a machine with no disk to write to, perhaps no network yet and a clock
# that is wrong. It shares as well: who has fetched a system already is the next one's best neighbour.
{ lib, ... }:
let
  inherit (lib) mkDefault;
in
{
  imports = [ ./module.nix ];

  services.narbor = {
    enable = mkDefault true;
    inMemory = mkDefault true;
    vsock = mkDefault true;
    spoolSize = mkDefault "50%";
    minFreeDisk = mkDefault "10%";
  };

  nix.settings.connect-timeout = mkDefault 5; # the internet may not be there either
}
