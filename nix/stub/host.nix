# Packages that can be built: programs of the host under the names of nixpkgs, as far as a check needs them.
#
# For `nix/build.sh`, which shows the host's /usr and its Rust toolchain (at /rust) to the sandbox. Functions do what
# nixpkgs' manual says of them, as far as nix/packages.nix and nix/check.nix use them.
{ system, vendor }:
let
  path = "/usr/bin:/usr/sbin";
  run = name: arguments: script:
    derivation (
      {
        inherit name system;
        builder = "/usr/bin/bash";
        args = [ "-euc" "export PATH=${bins arguments}${path} LC_ALL=C.UTF-8\n${script}" ];
      }
      // builtins.removeAttrs arguments [ "nativeBuildInputs" ]
    );
  bins = arguments:
    builtins.concatStringsSep "" (map (input: "${input}/bin:") (arguments.nativeBuildInputs or [ ]));

  # The folders of the host's programs, of which one would not be enough: QEMU's comes with its libraries.
  program = name: files: run name { } ''
    mkdir -p $out/bin
    for file in ${builtins.toString files}; do
      test -x "$file" || { echo "the host has no $file" >&2; exit 1; }
      ln -s "$file" $out/bin/
    done
  '';

  # As nixpkgs does it: for a named target, so that RUSTFLAGS are not those of build scripts and macros.
  target = "x86_64-unknown-linux-gnu";
  rust = environment: arguments:
    run "${arguments.pname}-${arguments.version}"
      (builtins.removeAttrs arguments [ "buildPhase" "installPhase" "cargoLock" "cargoBuildFlags" ])
      ''
        export PATH=/rust/bin:$PATH HOME=$PWD/home
        export CARGO_HOME=$HOME/cargo CARGO_BUILD_TARGET=${target} ${environment}
        mkdir -p "$CARGO_HOME"
        cat > "$CARGO_HOME/config.toml" <<END
        [source.crates-io]
        replace-with = "vendored"
        [source.vendored]
        directory = "${vendor}"
        END
        cp -R --no-preserve=mode "$src" source
        cd source
        cmp ${arguments.cargoLock.lockFile} Cargo.lock
        runHook() { :; }
        ${arguments.buildPhase or "cargo build --offline --profile ${profile arguments} ${builtins.toString arguments.cargoBuildFlags}"}
        ${arguments.installPhase or ''
          mkdir -p $out/bin
          find target/${target}/${profile arguments} -maxdepth 1 -type f -executable -exec cp -t $out/bin {} +
        ''}
      '';
  profile = arguments: arguments.buildType or "release";
in
{
  qemu = program "qemu" [ "/usr/bin/qemu-system-x86_64" "/usr/bin/qemu-img" ];
  e2fsprogs = program "e2fsprogs" [ "/usr/sbin/debugfs" "/usr/sbin/mke2fs" ];
  util-linux = program "util-linux" [ "/usr/bin/setpriv" "/usr/sbin/losetup" ];
  jq = program "jq" [ "/usr/bin/jq" ];
  OVMF.fd = run "OVMF-fd" { } ''
    mkdir -p $out/FV
    ln -s /usr/share/OVMF/OVMF_CODE_4M.fd $out/FV/OVMF_CODE.fd
    ln -s /usr/share/OVMF/OVMF_VARS_4M.fd $out/FV/OVMF_VARS.fd
  '';
  runCommand = run;
  rustPlatform.buildRustPackage = rust "";
  # A static binary, by the one libc that the host's toolchain has.
  pkgsStatic.rustPlatform.buildRustPackage = rust "RUSTFLAGS=-Ctarget-feature=+crt-static";
}
