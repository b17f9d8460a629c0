//go:build canary_tamper

package tiles

// bundleUnchecked seeds the bug: nobody compares the second bundle.
const bundleUnchecked = 1
