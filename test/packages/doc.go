// Package packages judges the Debian package and the tarball as a person has them:
// built, installed on bare Debian systems, run, upgraded, removed.
//
// The bare systems are namespaces of this machine with a real systemd as their first
// process, a root of their own (an overlay on a base of Debian) on a disk of their
// own, which loses what was not synced when its power is cut. Tests only.
package packages
