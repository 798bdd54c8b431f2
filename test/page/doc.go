// Package page looks at the status page in a real browser: as people see it at
// every width and in both themes, by keyboard, without JavaScript, and when the
// node behind it has gone. It has no code but tests, and needs chromium.
package page
