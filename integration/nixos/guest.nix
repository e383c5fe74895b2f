# For virtual machines, whose disks are small. A guest finds its host by itself: by multicast on a bridge, as its gateway
# behind NAT, by vsock where there is no network, or by narbor.peers= on the kernel's command line.
{ lib, ... }:
let
  inherit (lib) mkDefault;
in
{
  imports = [ ./module.nix ];

  services.narbor = {
    enable = mkDefault true;
    spoolSize = mkDefault "25%";
    vsock = mkDefault true;
    minFreeDisk = mkDefault "5%";
  };
}
