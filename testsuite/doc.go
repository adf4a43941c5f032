// Package testsuite checks contracts: for each one a suite that every implementation and its fake must pass (TestContent,
// TestDriver, TestExecutor), and those fakes, for the tests of packages that need one.
//
// It owns nothing at run time and imports contracts only, never an implementation. Its fakes keep all in memory, so a crash
// leaves nothing; what a suite makes on disk lies in the test's own directories.
package testsuite
