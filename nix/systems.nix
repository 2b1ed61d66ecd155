# NixOS systems for the machines of each network profile, made from the same TOML files as the switch's ports.
{
  lib,
  nixosSystem,
  guest,
}:
let
  data = ../profiles/data;
  files = builtins.filter (name: lib.hasSuffix ".toml" name) (builtins.attrNames (builtins.readDir data));
  profiles = map (file: builtins.fromTOML (builtins.readFile (data + "/${file}"))) files;

  base = {
    system.stateVersion = "25.11";
    boot.loader.systemd-boot.enable = true;
    fileSystems."/" = {
      device = "/dev/disk/by-label/nixos";
      fsType = "ext4";
    };
    fileSystems."/boot" = {
      device = "/dev/disk/by-label/ESP";
      fsType = "vfat";
    };
  };

  system =
    profile: name:
    nixosSystem {
      system = "x86_64-linux";
      modules = [
        guest
        base
        (import ./profile.nix { inherit lib profile name; })
      ];
    };
in
{
  # vlans-server-1, vlans-agent-1, … one for each machine of each profile.
  configurations = builtins.listToAttrs (
    lib.concatMap (
      profile:
      map (name: {
        name = "${profile.name}-${name}";
        value = system profile name;
      }) (builtins.attrNames profile.machines)
    ) profiles
  );

  # A disk that takes its network from the driver, as the scenarios need it.
  image =
    pkgs:
    let
      built = nixosSystem {
        system = pkgs.stdenv.hostPlatform.system;
        modules = [
          guest
          base
          {
            networking.useNetworkd = true;
            services.k3s.enable = false;
          }
        ];
      };
    in
    "${built.config.system.build.images.raw-efi}/${built.config.system.build.images.raw-efi.passthru.filePath}";
}
