package e2ewine

// osVersion is that of the Windows host (ci/wine), and of images for it.
const osVersion = "10.0.20348.2000"
