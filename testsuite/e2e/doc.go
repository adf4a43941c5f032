// Package e2e drives clients that people have (Debian's ctr, a ctr of containerd 2.x, containerd's Go client) against the
// daemon as it is built, over its socket, and kills things under it. It is a module of its own so that what it needs does
// not become a dependency of the product.
//
// The tests need root and start a private daemon each, with a registry in this process. $SLIPWAY_BIN names the directory
// of the binaries; without it they are built. What a client that is missing would test is skipped and says so, but for ctr 2,
// which go builds out of this module's own requirements.
package e2e
