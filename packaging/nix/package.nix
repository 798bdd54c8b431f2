# The program, its units, manual pages and completions. vendorHash is of what "go mod vendor" makes
# of go.mod and go.sum; TestVendorHash says the new one after each change of them.
{ lib, buildGoModule, installShellFiles, vendorHash ? "sha256-/MZzIM6lm0fhRX65N5x7wJglP+kdSKtg8Uh9pFlejmM=", version ? "0.0" }:
buildGoModule {
  pname = "revolve";
  inherit version vendorHash;
  src = lib.cleanSource ../..;
  subPackages = [ "cmd/revolve" ];
  env.CGO_ENABLED = 0;
  nativeBuildInputs = [ installShellFiles ];
  doCheck = false; # the tests make networks and disks of their own: make test
  postInstall = ''
    mkdir -p $out/lib/systemd/system
    for unit in examples/systemd/revolve.service examples/witness/revolve-witness.service; do
      sed "s|^ExecStart=[^ ]*/revolve |ExecStart=$out/bin/revolve |" "$unit" > "$out/lib/systemd/system/''${unit##*/}"
    done
    $out/bin/revolve man --out $out/share/man
    for shell in bash zsh fish; do
      $out/bin/revolve completion "$shell" > "revolve.$shell"
      installShellCompletion --cmd revolve "--$shell" "revolve.$shell"
    done
  '';
  meta = {
    description = "A handful of mismatched machines, one cluster that keeps serving";
    license = lib.licenses.asl20;
    mainProgram = "revolve";
    platforms = lib.platforms.linux;
  };
}
