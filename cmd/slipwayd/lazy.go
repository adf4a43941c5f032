package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image/lazyindex"
)

// openIndexes opens what this host knows of layers, and whom to believe besides.
func openIndexes(c config, log *slog.Logger) (*lazyindex.Finder, error) {
	own, err := lazyindex.Open(filepath.Join(c.Root, "lazyindex"), 0, log)
	if err != nil {
		return nil, err
	}
	trust := lazyindex.Trust{Registry: c.Lazy.TrustRegistry}
	for _, name := range c.Lazy.TrustKeys {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("lazy.trust_keys: %w", err)
		}
		key, err := lazyindex.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("lazy.trust_keys: %s: %w", name, err)
		}
		trust.Keys = append(trust.Keys, key)
	}
	return &lazyindex.Finder{Own: own, Trust: trust, Log: log}, nil
}

func lazyOptions(c config) engine.LazyOptions {
	o := engine.LazyOptions{Mode: c.Lazy.Mode, Images: c.Lazy.Images, Delay: c.Lazy.Delay.Duration, Rate: c.Lazy.Rate.Bytes, DockerConfig: dockerConfig(), Stream: c.Lazy.Stream}
	if !c.Lazy.Background {
		o.Delay = -1
	}
	return o
}

// dockerConfig is where docker keeps the credentials of the user that this runs as.
func dockerConfig() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".docker", "config.json")
}
