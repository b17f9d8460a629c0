//go:build !canary_tamper

package tiles

// bundleUnchecked is the bundle whose comparison with its hashes a seeded bug
// leaves out, to show that the tamper suite can fail. Here there is none.
const bundleUnchecked = -1
