# A NixOS guest with the agent in it: a unit, a quiet console, and no other change.
{ agentOf }:
{ pkgs, ... }:
{
  # As the driver's own unit: there before sysinit.target, and until the very end of a shutdown.
  systemd.services.rackless-agent = {
    description = "Rackless guest agent";
    wantedBy = [ "sysinit.target" ];
    unitConfig = {
      DefaultDependencies = false;
      StartLimitIntervalSec = 0;
    };
    serviceConfig = {
      ExecStart = "${agentOf pkgs}/bin/rackless-agent";
      Restart = "always";
      RestartSec = "500ms";
      OOMScoreAdjust = -900;
      TasksMax = "infinity";
      LimitNOFILE = 65536;
    };
  };

  boot.initrd.availableKernelModules = [
    "virtio_console"
    "virtio_net"
    "virtio_pci"
  ];
  boot.kernelModules = [ "virtio_console" ];
  # The driver reads the boot's stages off this console, and each line costs an emulated machine time.
  boot.kernelParams = [
    "console=ttyS0"
    "quiet"
  ];
}
