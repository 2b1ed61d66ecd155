# What is built from the source: the command, the agent, the test binaries, the demo.
{ pkgs, source }:
let
  common = {
    version = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).workspace.package.version;
    src = source;
    cargoLock.lockFile = ../Cargo.lock;
    # They boot machines or look for what a build's sandbox has not: `cargo xtask test` is the gate.
    doCheck = false;
  };
in
rec {
  rackless = pkgs.rustPlatform.buildRustPackage (
    common
    // {
      pname = "rackless";
      cargoBuildFlags = [
        "--package"
        "cli"
      ];
    }
  );

  # One static binary, which runs in any guest.
  agent = pkgs.pkgsStatic.rustPlatform.buildRustPackage (
    common
    // {
      pname = "rackless-agent";
      buildType = "agent";
      cargoBuildFlags = [
        "--package"
        "agent"
      ];
    }
  );

  # The suites as programs, each under its own name: cargo's have a digest behind it.
  tests = pkgs.rustPlatform.buildRustPackage (
    common
    // {
      pname = "rackless-tests";
      buildPhase = ''
        runHook preBuild
        cargo test --offline --no-run --package scenarios --message-format json > built.json
        runHook postBuild
      '';
      nativeBuildInputs = [ pkgs.jq ];
      installPhase = ''
        runHook preInstall
        mkdir -p $out/bin
        jq -r 'select(.executable and .profile.test) | "\(.target.name) \(.executable)"' built.json |
          while read -r name program; do
            install -m 755 "$program" "$out/bin/$name"
          done
        runHook postInstall
      '';
    }
  );

  demo = pkgs.writeShellApplication {
    name = "rackless-demo";
    runtimeInputs = [
      pkgs.qemu
      pkgs.e2fsprogs
      pkgs.mmdebstrap
      pkgs.util-linux
    ];
    text =
      let
        set = import ./qemu.nix { inherit pkgs; };
        exports = map (name: "export ${name}=${set.${name}}") (builtins.attrNames set);
      in
      ''
        ${builtins.concatStringsSep "\n" exports}
        export RACKLESS_AGENT=${agent}/bin/rackless-agent
        exec ${tests}/bin/cluster_vlans "$@"
      '';
  };
}
