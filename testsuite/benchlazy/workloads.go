//go:build linux

package main

import "fmt"

// ask has bash speak to a server in the same container, as soon as it listens: no two contenders have the same network.
func ask(server, port, question string) []string {
	return []string{"bash", "-c", fmt.Sprintf(`%s
until { exec 3<>/dev/tcp/127.0.0.1/%s; } 2>/dev/null; do read -rt 0.005 <> <(:); done
printf '%s' >&3; read -r answer <&3; echo "$answer"; kill $! 2>/dev/null; exit 0`, server, port, question)}
}

// workloads are the images that are started. One that is made here gets a new name when what it is made of changes.
var workloads = []workload{
	{repo: "python", args: []string{"python3", "-c", `import numpy, flask; print("re" + "ady", flush=True)`}, ready: "ready", narrow: true},
	{repo: "node", args: []string{"node", "-e", `console.log("re" + "ady")`}, ready: "ready"},
	{repo: "java", args: []string{"java", "-version"}, ready: "Runtime Environment", narrow: true},
	{repo: "nginx", args: ask(`nginx -g "daemon off;" >/dev/null 2>&1 &`, "80", `GET / HTTP/1.0\r\n\r\n`), ready: " 200 OK"},
	{repo: "redis", args: ask("redis-server --protected-mode no >/dev/null 2>&1 &", "6379", `PING\r\n`), ready: "+PONG"},
	{repo: "bench-2gb", args: append([]string{"/bin/reader", "some", "/data/big"}, someOf("/data/%d/50", 1, 17)...), ready: "ready", files: bigFiles},
}

// many is only looked at for what it takes in memory.
var many = workload{repo: "bench-100k", args: []string{"/bin/reader", "walk", "/data"}, ready: "ready", files: manyFiles}

func someOf(format string, from, to int) (names []string) {
	for i := from; i <= to; i++ {
		names = append(names, fmt.Sprintf(format, i))
	}
	return names
}
