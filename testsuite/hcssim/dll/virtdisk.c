/* The stub of virtdisk.dll: as much of virtual disks as making one needs, which is a file then, and as hcsshim.ExpandScratchSize needs, which
 * attaches a scratch's disk and asks its volume for its size. Attaching is a message to hcssimd, by way of vmcompute.dll's connections; the volume's folder is a
 * path that wine knows (see testsuite/hcssim/layers), but not one that can be opened as a device, so that opening it without a
 * trailing backslash is mended here, from the first disk that a program opens: it gets NUL, whose length is 0 when asked as a disk.
 * There is nothing to extend then, as the volume is larger already.
 */
#define CreateVirtualDisk declared_create /* the header's declarations import them */
#define OpenVirtualDisk declared_open
#define AttachVirtualDisk declared_attach
#define DetachVirtualDisk declared_detach
#include <windows.h>
#undef CreateVirtualDisk
#undef OpenVirtualDisk
#undef AttachVirtualDisk
#undef DetachVirtualDisk
#include <winternl.h>
#include <stdint.h>
#include <string.h>

#define API __declspec(dllexport) DWORD WINAPI
#define IOCTL_DISK_GET_LENGTH 0x0007405c

typedef NTSTATUS(NTAPI *create_t)(PHANDLE, ACCESS_MASK, POBJECT_ATTRIBUTES, PIO_STATUS_BLOCK, PLARGE_INTEGER, ULONG, ULONG, ULONG, ULONG, PVOID, ULONG);
typedef NTSTATUS(NTAPI *control_t)(HANDLE, HANDLE, PVOID, PVOID, PIO_STATUS_BLOCK, ULONG, PVOID, ULONG, PVOID, ULONG);
static create_t real_create;
static control_t real_control;

/* is_volume says whether a name is \??\Volume{GUID} with nothing behind it. */
static int is_volume(const UNICODE_STRING *n) {
  return n && n->Length == 48 * sizeof(WCHAR) && !_wcsnicmp(n->Buffer, L"\\??\\Volume{", 11) && n->Buffer[47] == L'}';
}

static NTSTATUS NTAPI create(PHANDLE h, ACCESS_MASK access, POBJECT_ATTRIBUTES oa, PIO_STATUS_BLOCK io, PLARGE_INTEGER size, ULONG attr,
                             ULONG share, ULONG disposition, ULONG options, PVOID ea, ULONG ealen) {
  if (oa && !oa->RootDirectory && is_volume(oa->ObjectName)) {
    OBJECT_ATTRIBUTES nul = *oa;
    UNICODE_STRING name;
    RtlInitUnicodeString(&name, L"\\??\\NUL");
    nul.ObjectName = &name;
    return real_create(h, access, &nul, io, size, attr, share, FILE_OPEN, options, ea, ealen);
  }
  return real_create(h, access, oa, io, size, attr, share, disposition, options, ea, ealen);
}

static NTSTATUS NTAPI control(HANDLE h, HANDLE event, PVOID apc, PVOID ctx, PIO_STATUS_BLOCK io, ULONG code, PVOID in, ULONG inlen, PVOID out, ULONG outlen) {
  if (code == IOCTL_DISK_GET_LENGTH && outlen >= 8) {
    memset(out, 0, 8);
    io->Information = 8;
    io->Status = 0;
    return 0;
  }
  return real_control(h, event, apc, ctx, io, code, in, inlen, out, outlen);
}

/* hook replaces a system call of ntdll and answers a copy of it that still works: these are 32 bytes without relative jumps. */
static void *hook(const char *name, void *fn) {
  static unsigned char *copies;
  unsigned char *p = (void *)GetProcAddress(GetModuleHandleA("ntdll"), name), *copy;
  DWORD old;
  if (!copies) copies = VirtualAlloc(NULL, 4096, MEM_COMMIT | MEM_RESERVE, PAGE_EXECUTE_READWRITE);
  if (!p || !copies) return NULL;
  memcpy(copy = copies, p, 32);
  copies += 32;
  VirtualProtect(p, 12, PAGE_EXECUTE_READWRITE, &old);
  p[0] = 0x48, p[1] = 0xb8; /* mov rax, fn */
  memcpy(p + 2, &fn, 8);
  p[10] = 0xff, p[11] = 0xe0; /* jmp rax */
  VirtualProtect(p, 12, old, &old);
  return copy;
}

static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
static BOOL CALLBACK install(PINIT_ONCE o, PVOID p, PVOID *c) {
  real_create = hook("NtCreateFile", create);
  real_control = hook("NtDeviceIoControlFile", control);
  return TRUE;
}

API CreateVirtualDisk(void *type, const WCHAR *path, ULONG access, void *sd, ULONG flags, ULONG provider, void *params, void *overlapped, HANDLE *out) {
  DWORD n;
  *out = CreateFileW(path, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, CREATE_NEW, 0, NULL);
  return *out != INVALID_HANDLE_VALUE && WriteFile(*out, "vhdxfile", 8, &n, NULL) ? 0 : GetLastError();
}

API OpenVirtualDisk(void *type, const WCHAR *path, ULONG access, ULONG flags, void *params, HANDLE *out) {
  InitOnceExecuteOnce(&once, install, NULL, NULL);
  *out = CreateFileW(path, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
  return *out == INVALID_HANDLE_VALUE ? GetLastError() : 0;
}

API AttachVirtualDisk(HANDLE disk, void *sd, ULONG flags, ULONG provider, void *params, void *overlapped) {
  struct { int flavour; const WCHAR *home; } none = {1, L""};
  WCHAR path[32768];
  int32_t(WINAPI * attach)(void *, const WCHAR *) = (void *)GetProcAddress(LoadLibraryW(L"vmcompute.dll"), "HcssimAttachVirtualDisk");
  DWORD n = GetFinalPathNameByHandleW(disk, path, 32767, FILE_NAME_NORMALIZED);
  if (!attach || !n || n >= 32767) return ERROR_INVALID_HANDLE;
  int32_t hr = attach(&none, path);
  return hr < 0 ? (DWORD)hr & 0xffff : 0;
}

API DetachVirtualDisk(HANDLE disk, ULONG flags, ULONG provider) { return 0; }
