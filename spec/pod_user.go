package spec

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// PodUser answers the ids of a container's process: who it says, or the image's user, with the groups that the image's files give that
// user, unless only those that the container names are wanted. The process's group is
// among the additional ones, as in a login.
func PodUser(a Accounts, sec ContainerSecurity, image string) (specs.User, error) {
	who := image
	switch {
	case sec.User != nil:
		who = strconv.FormatInt(*sec.User, 10)
	case sec.Username != "":
		who = sec.Username
	case sec.Group != nil:
		return specs.User{}, fmt.Errorf("run_as_group needs run_as_user or run_as_username: %w", errdefs.ErrInvalidArgument)
	}
	if who == "" || who == "root" { // also where the image has no passwd file
		who = "0"
	}
	if sec.Group != nil {
		who += ":" + strconv.FormatInt(*sec.Group, 10)
	}
	u, err := a.resolve(who)
	if err != nil {
		return u, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	groups := []uint32{u.GID}
	if !sec.StrictGroups {
		groups = append(groups, u.AdditionalGids...)
	}
	for _, g := range sec.Groups {
		if g < 0 || g > 1<<31-1 {
			return u, fmt.Errorf("supplemental group %d is not from 0 to %d: %w", g, 1<<31-1, errdefs.ErrInvalidArgument)
		}
		groups = append(groups, uint32(g))
	}
	slices.Sort(groups[1:])
	u.AdditionalGids = nil
	for _, g := range groups {
		if !slices.Contains(u.AdditionalGids, g) {
			u.AdditionalGids = append(u.AdditionalGids, g)
		}
	}
	return u, nil
}
