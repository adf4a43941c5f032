// Package fuselayer is a lazy layer for tests: a directory on disk, served as if it had to be fetched, with faults on
// command. It is what the FUSE server is tested with, and no part of the product.
package fuselayer
