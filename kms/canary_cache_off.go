//go:build !canary_cache

package kms

// staleCache is a seeded bug: key versions that were read before a change are used
// after it, until their second is over. The linearizability test must fail with it (TestCanaryCache).
const staleCache = false
