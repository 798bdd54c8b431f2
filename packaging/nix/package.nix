# The program, its units, manual pages and completions. vendorHash is of the modules that
# go.sum names, and is not set: the build fails with "hash mismatch" and a line
# "got: sha256-...", which belongs here in place of lib.fakeHash (again after each change of
# go.sum). Computed without a build, and verified by none:
# sha256-gAMuNZMjb+63BMGLgVn6PClD/FWwHBb3y7NmauIORHY=
{ lib, buildGoModule, installShellFiles, vendorHash ? lib.fakeHash, version ? "0.0" }:
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
