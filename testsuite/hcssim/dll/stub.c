/* The stub of vmcompute.dll, computenetwork.dll: every function that hcsshim and Slipway call, each a message to hcssimd.
 *
 * One source makes both DLLs. It owns connections to hcssimd (whose address is in C:\hcssim\addr, or the file that the environment
 * variable HCSSIM_ADDR names, so that a test can have a simulator of its own) and the caller's callbacks;
 * it knows nothing of what the functions mean. The protocol is that of testsuite/hcssim/wire. When hcssimd isn't there, calls
 * answer ERROR_SERVICE_NOT_ACTIVE, as Windows does when the service is stopped; when it dies in the middle,
 * RPC_S_CALL_FAILED, and the callbacks hear HcsNotificationServiceDisconnect.
 */
#include <winsock2.h>
#include <windows.h>
#include <objbase.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#define API __declspec(dllexport) int32_t WINAPI
#define HR_NOT_ACTIVE ((int32_t)0x80070426)
#define HR_CALL_FAILED ((int32_t)0x800706be)
#define HR_NO_MEMORY ((int32_t)0x8007000e)
#define SERVICE_DISCONNECT 0x01000000u
#define MAX_FRAME (16u << 20)

typedef void(CALLBACK *callback)(uint32_t type, void *ctx, int32_t status, const WCHAR *data);
typedef struct { uint32_t pid, reserved; HANDLE in, out, err; } process_info;
typedef struct { GUID id; uint32_t flags; const WCHAR *path; } layer;
typedef struct { int flavour; const WCHAR *home; } driver;

/* ---- frames ---- */

typedef struct { char *p; uint32_t len, cap, at; int bad; } buffer;

static void put(buffer *b, const void *p, uint32_t n) {
  if (b->bad || b->len + n > MAX_FRAME) { b->bad = 1; return; }
  if (b->len + n > b->cap) {
    uint32_t cap = (b->len + n) * 2 + 256;
    char *q = realloc(b->p, cap);
    if (!q) { b->bad = 1; return; }
    b->p = q; b->cap = cap;
  }
  memcpy(b->p + b->len, p, n);
  b->len += n;
}
static void field(buffer *b, const void *p, uint32_t n) { put(b, &n, 4); put(b, p, n); }
static void wide(buffer *b, const WCHAR *s) { field(b, s ? s : L"", s ? (uint32_t)wcslen(s) * 2 : 0); }
static void begin(buffer *b) { uint32_t n = 0; b->len = b->at = 0; b->bad = 0; put(b, &n, 4); }

/* next answers the next field of a frame that was received, NULL at its end. */
static const char *next(buffer *b, uint32_t *n) {
  if (b->len - b->at < 4) return NULL;
  memcpy(n, b->p + b->at, 4);
  if (*n > b->len - b->at - 4) return NULL;
  const char *f = b->p + b->at + 4;
  b->at += 4 + *n;
  return f;
}

static int send_frame(SOCKET s, buffer *b) {
  uint32_t n = b->len - 4, done = 0;
  if (b->bad) return 0;
  memcpy(b->p, &n, 4);
  while (done < b->len) {
    int k = send(s, b->p + done, b->len - done, 0);
    if (k <= 0) return 0;
    done += k;
  }
  return 1;
}
/* A connection, and the process at its other end: wine doesn't always close the sockets of a process that was killed. */
typedef struct { SOCKET s; HANDLE server; } conn;
static const conn none = {INVALID_SOCKET, NULL};

static void drop(conn c) {
  if (c.s != INVALID_SOCKET) closesocket(c.s);
  if (c.server) CloseHandle(c.server);
}
/* readable waits at most ms for something to read or the end of the connection. */
static int readable(conn c, int ms) {
  fd_set r;
  struct timeval t = {0, ms * 1000};
  FD_ZERO(&r);
  FD_SET(c.s, &r);
  return select(0, &r, NULL, NULL, &t) != 0;
}
static int receive(conn c, char *p, uint32_t n) {
  while (n) {
    while (!readable(c, 100))
      if (WaitForSingleObject(c.server, 0) == WAIT_OBJECT_0) return 0;
    int k = recv(c.s, p, n, 0);
    if (k <= 0) return 0;
    p += k; n -= k;
  }
  return 1;
}
static int receive_frame(conn s, buffer *b) {
  uint32_t n;
  b->len = b->at = 0;
  if (!receive(s, (char *)&n, 4) || n > MAX_FRAME) return 0;
  if (n > b->cap) {
    char *q = realloc(b->p, n);
    if (!q) return 0;
    b->p = q; b->cap = n;
  }
  if (!receive(s, b->p, n)) return 0;
  b->len = n;
  return 1;
}

/* ---- connections: idle ones are kept; a call takes one for itself ---- */

static SRWLOCK lock = SRWLOCK_INIT;
static conn idle[32];
static int idles;
static uint64_t instance; /* tells this DLL in this process from others; 0 until the first connection */

/* address reads where hcssimd is: its port, its process, and what to say to it first. */
static int address(unsigned *port, DWORD *pid, char token[64]) {
  WCHAR file[1024];
  char text[128] = "";
  DWORD n = 0, set = GetEnvironmentVariableW(L"HCSSIM_ADDR", file, 1024);
  HANDLE f = CreateFileW(set && set < 1024 ? file : L"C:\\hcssim\\addr", GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
  if (f == INVALID_HANDLE_VALUE) return 0;
  BOOL ok = ReadFile(f, text, sizeof text - 1, &n, NULL);
  CloseHandle(f);
  return ok && sscanf(text, "%u %63s %lu", port, token, pid) == 3;
}

static conn dial(const char *purpose) {
  char token[64], hello[64];
  unsigned port;
  DWORD pid;
  WSADATA wsa;
  conn c = none;
  if (!address(&port, &pid, token) || WSAStartup(MAKEWORD(2, 2), &wsa)) return none;
  c.server = OpenProcess(SYNCHRONIZE, FALSE, pid);
  if (!c.server) return none;
  c.s = WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
  if (c.s == INVALID_SOCKET) { drop(c); return none; }
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((u_short)port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  BOOL nodelay = TRUE;
  setsockopt(c.s, IPPROTO_TCP, TCP_NODELAY, (char *)&nodelay, sizeof nodelay);
  buffer b = {0};
  begin(&b);
  field(&b, token, (uint32_t)strlen(token));
  field(&b, purpose, (uint32_t)strlen(purpose));
  snprintf(hello, sizeof hello, "%lu.%llx", GetCurrentProcessId(), (unsigned long long)instance);
  field(&b, hello, (uint32_t)strlen(hello));
  if (connect(c.s, (struct sockaddr *)&to, sizeof to) || !send_frame(c.s, &b)) { drop(c); c = none; }
  free(b.p);
  return c;
}

/* alive says whether an idle connection can still be used: hcssimd sends nothing unasked, so that only its end is readable. */
static int alive(conn c) { return !readable(c, 0) && WaitForSingleObject(c.server, 0) != WAIT_OBJECT_0; }

static conn take(void) {
  for (;;) {
    conn c = none;
    AcquireSRWLockExclusive(&lock);
    if (!instance) {
      LARGE_INTEGER t;
      QueryPerformanceCounter(&t);
      instance = (uint64_t)t.QuadPart << 8 ^ (uint64_t)(uintptr_t)&lock;
    }
    if (idles) c = idle[--idles];
    ReleaseSRWLockExclusive(&lock);
    if (c.s == INVALID_SOCKET) return dial("calls");
    if (alive(c)) return c;
    drop(c);
  }
}
static void give(conn c) {
  AcquireSRWLockExclusive(&lock);
  if (c.s != INVALID_SOCKET && idles < (int)(sizeof idle / sizeof *idle)) { idle[idles++] = c; c = none; }
  ReleaseSRWLockExclusive(&lock);
  drop(c);
}

/* ---- calls ---- */

static void put_in(buffer *b, char kind, va_list *ap) {
  uint64_t u64;
  uint32_t u32;
  switch (kind) {
  case 's': wide(b, va_arg(*ap, const WCHAR *)); break;
  case 'h': u64 = va_arg(*ap, uint64_t); field(b, &u64, 8); break;
  case 'u': u32 = va_arg(*ap, uint32_t); field(b, &u32, 4); break;
  case 'g': field(b, va_arg(*ap, GUID *), 16); break;
  case 'd': { const driver *d = va_arg(*ap, const driver *); wide(b, d ? d->home : NULL); break; }
  case 'l': { /* a stack of layers: one field, of strings as in a frame */
    const layer *l = va_arg(*ap, const layer *);
    buffer all = {0};
    for (u32 = va_arg(*ap, uint32_t); u32; u32--, l++) { field(&all, &l->id, 16); wide(&all, l->path); }
    field(b, all.p ? all.p : "", all.len);
    free(all.p);
    break; }
  }
}

static int32_t take_out(buffer *b, char kind, void *to) {
  uint32_t n;
  const char *f = next(b, &n);
  if (!f || !to) return 0;
  switch (kind) {
  case 'H': if (n == 8) memcpy(to, f, 8); break;
  case 'U': if (n == 4) memcpy(to, f, 4); break;
  case 'G': if (n == 16) memcpy(to, f, 16); break;
  case 'P': if (n == sizeof(process_info)) memcpy(to, f, n); break;
  case 'W': if (n) {
    char *s = CoTaskMemAlloc(n + 2);
    if (!s) return HR_NO_MEMORY;
    memcpy(s, f, n);
    s[n] = s[n + 1] = 0;
    *(char **)to = s;
  }
  }
  return 0;
}

/* call sends a request and waits for its reply. fmt names the arguments: s a wide string, h a handle, u a uint32, g a GUID, d a
 * driver, l layers and their number; after '>' where results go: H a handle, U a uint32, G a GUID, P a process_info, W a
 * string of CoTaskMemAlloc, left alone when empty. */
static int32_t call(const char *function, const char *fmt, ...) {
  int32_t hr = HR_CALL_FAILED;
  buffer b = {0};
  va_list ap;
  va_start(ap, fmt);
  begin(&b);
  field(&b, function, (uint32_t)strlen(function));
  for (; *fmt && *fmt != '>'; fmt++) put_in(&b, *fmt, &ap);
  conn c = take();
  if (c.s == INVALID_SOCKET) {
    hr = HR_NOT_ACTIVE;
  } else if (!send_frame(c.s, &b) || !receive_frame(c, &b)) {
    drop(c);
  } else {
    uint32_t n;
    const char *f;
    give(c);
    if ((f = next(&b, &n)) && n == 4) {
      memcpy(&hr, f, 4);
      if (*fmt == '>')
        for (fmt++; *fmt; fmt++) {
          int32_t bad = take_out(&b, *fmt, va_arg(ap, void *));
          if (bad) hr = bad;
        }
    }
  }
  va_end(ap);
  free(b.p);
  return hr;
}

/* ---- callbacks: one thread for a connection on which hcssimd tells what happened ---- */

typedef struct listener { struct listener *next; uint64_t id; callback fn; void *ctx; } listener;
static CRITICAL_SECTION calling; /* held while a callback runs: unregistering waits for it */
static listener *listeners;
static int listening;
static uint64_t last_listener;

static void tell(uint64_t id, uint32_t type, int32_t status, const WCHAR *data) {
  EnterCriticalSection(&calling);
  for (listener *l = listeners; l; l = l->next)
    if (l->id == id || !id) {
      l->fn(type, l->ctx, status, data);
      if (id) break;
    }
  LeaveCriticalSection(&calling);
}

static DWORD WINAPI listen_events(void *arg) {
  conn c = *(conn *)arg;
  buffer b = {0};
  free(arg);
  while (receive_frame(c, &b)) {
    uint32_t n[4], type;
    int32_t status;
    uint64_t id;
    const char *f[4];
    int i;
    for (i = 0; i < 4 && (f[i] = next(&b, &n[i])); i++) ;
    if (i < 4 || n[0] != 8 || n[1] != 4 || n[2] != 4) break;
    memcpy(&id, f[0], 8);
    memcpy(&type, f[1], 4);
    memcpy(&status, f[2], 4);
    WCHAR *data = n[3] ? calloc(1, n[3] + 2) : NULL;
    if (data) memcpy(data, f[3], n[3]);
    tell(id, type, status, data);
    free(data);
  }
  drop(c);
  free(b.p);
  EnterCriticalSection(&calling);
  listening = 0;
  LeaveCriticalSection(&calling);
  tell(0, SERVICE_DISCONNECT, 0, NULL);
  return 0;
}

static void forget_listener(uint64_t id) {
  EnterCriticalSection(&calling);
  for (listener **p = &listeners; *p; p = &(*p)->next)
    if ((*p)->id == id) {
      listener *l = *p;
      *p = l->next;
      free(l);
      break;
    }
  LeaveCriticalSection(&calling);
}

/* listen_once starts the thread unless it runs. */
static int32_t listen_once(void) {
  conn *c;
  buffer ready = {0};
  int32_t hr = 0;
  HANDLE thread;
  if (listening) return 0;
  if (!(c = malloc(sizeof *c))) return HR_NO_MEMORY;
  *c = dial("events");
  if (c->s == INVALID_SOCKET) hr = HR_NOT_ACTIVE;
  else if (!receive_frame(*c, &ready)) hr = HR_CALL_FAILED; /* what is registered from now on is heard of */
  else if (!(thread = CreateThread(NULL, 0, listen_events, c, 0, NULL))) hr = HR_NO_MEMORY;
  else { CloseHandle(thread); listening = 1; }
  free(ready.p);
  if (hr) { drop(*c); free(c); }
  return hr;
}

static int32_t add_listener(const char *function, uint64_t h, void *fn, void *ctx, uint64_t *out) {
  listener *l = calloc(1, sizeof *l);
  if (!l) return HR_NO_MEMORY;
  give(take()); /* so that this DLL has its instance before the other connection says it */
  EnterCriticalSection(&calling);
  int32_t hr = listen_once();
  *out = l->id = ++last_listener;
  l->fn = (callback)fn;
  l->ctx = ctx;
  l->next = listeners;
  listeners = l;
  LeaveCriticalSection(&calling);
  if (!hr) hr = call(function, "hh", h, l->id); /* events may come from here on, and find their listener */
  if (hr < 0) forget_listener(l->id);
  return hr;
}
static int32_t remove_listener(const char *function, uint64_t id) {
  forget_listener(id);
  return call(function, "h", id);
}

BOOL WINAPI DllMain(HINSTANCE inst, DWORD reason, LPVOID reserved) {
  if (reason == DLL_PROCESS_ATTACH) InitializeCriticalSection(&calling);
  return TRUE;
}

#include "exports.h"
