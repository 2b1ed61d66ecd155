# The development shell: what `cargo xtask setup` would install, for hosts that are neither Debian nor Ubuntu.
# Not evaluated yet: no nixpkgs was at hand where this was written. The package names are to the best of our
# knowledge.
{
  description = "Rackless: whole racks of machines for a test";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
    in
    {
      devShells.${system}.default = pkgs.mkShell {
        packages = with pkgs; [
          cargo
          cargo-nextest
          clippy
          debian-archive-keyring
          e2fsprogs
          glibc.static
          mmdebstrap
          qemu
          rustc
          rustfmt
          shadow
          util-linux
        ];

        # Neither the driver nor set-up looks into the Nix store by itself.
        RACKLESS_QEMU = "${pkgs.qemu}/bin/qemu-system-x86_64";
        RACKLESS_FIRMWARE_CODE = "${pkgs.OVMF.fd}/FV/OVMF_CODE.fd";
        RACKLESS_FIRMWARE_VARS = "${pkgs.OVMF.fd}/FV/OVMF_VARS.fd";
      };
    };
}
