/* The stub of cimfs.dll, offreg.dll and computestorage.dll: as much of composite images as an importer of layers needs. No process but the
 * caller's has a part in it, and nothing can be mounted.
 *
 * An image NAME.cim is a header as CimFS has it (hcsshim, pkg/cimfs/format), which names the files beside it: region_ID_0 is a journal of what was
 * written into the image, a line for each call and the data behind it, and objectid_ID_0 lists what is in the image, with what it was
 * forked from, a line for each: d or f, and the path. Tests read both. Until CimCommitImage there is no NAME.cim.
 *
 * Hives of the registry are files, and merging them puts one behind the other. Errors are those of Windows: a file whose directory is not there, a
 * link to what is not there.
 */
#include <windows.h>
#include <objbase.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define API __declspec(dllexport) int32_t WINAPI
#define HR(code) ((int32_t)(0x80070000u | (code)))
#define MAX_NAME 2048

typedef struct entry { struct entry *next; int dir; WCHAR path[]; } entry;
typedef struct image { WCHAR dir[MAX_NAME], name[MAX_NAME]; GUID id; HANDLE journal; entry *entries; } image;
typedef struct { uint32_t attributes; int64_t size; FILETIME times[4]; void *sd; uint32_t sd_size; void *reparse; uint32_t reparse_size; void *ea; uint32_t ea_count; } metadata;

/* ---- what is in an image ---- */

static entry **find(image *m, const WCHAR *path) {
  entry **e = &m->entries;
  while (*e && _wcsicmp((*e)->path, path)) e = &(*e)->next;
  return e;
}

static void forget(image *m, const WCHAR *path) {
  size_t n = wcslen(path);
  for (entry **e = &m->entries; *e;) {
    entry *x = *e;
    if (!_wcsnicmp(x->path, path, n) && (!x->path[n] || x->path[n] == L'\\')) { *e = x->next; free(x); }
    else e = &x->next;
  }
}

static int32_t add(image *m, const WCHAR *path, int dir) {
  const WCHAR *slash = wcsrchr(path, L'\\');
  if (slash) {
    WCHAR above[MAX_NAME];
    size_t n = slash - path;
    if (n >= MAX_NAME) return HR(ERROR_FILENAME_EXCED_RANGE);
    memcpy(above, path, n * 2);
    above[n] = 0;
    entry *e = *find(m, above);
    if (!e || !e->dir) return HR(ERROR_PATH_NOT_FOUND);
  }
  entry *is = *find(m, path);
  if (is && is->dir == dir) return 0;
  if (is) forget(m, path);
  entry *e = malloc(sizeof *e + (wcslen(path) + 1) * 2);
  if (!e) return (int32_t)E_OUTOFMEMORY;
  e->dir = dir;
  wcscpy(e->path, path);
  e->next = m->entries;
  m->entries = e;
  return 0;
}

/* ---- files ---- */

static void beside(const image *m, const WCHAR *kind, WCHAR out[MAX_NAME]) {
  const GUID *g = &m->id;
  _snwprintf(out, MAX_NAME, L"%ls\\%ls_%08lx-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x_0", m->dir, kind, g->Data1, g->Data2, g->Data3, g->Data4[0], g->Data4[1],
             g->Data4[2], g->Data4[3], g->Data4[4], g->Data4[5], g->Data4[6], g->Data4[7]);
}

static HANDLE make(const WCHAR *path) { return CreateFileW(path, GENERIC_WRITE, FILE_SHARE_READ, NULL, CREATE_ALWAYS, 0, NULL); }

static int put(HANDLE f, const void *p, DWORD n) {
  DWORD done;
  return WriteFile(f, p, n, &done, NULL) && done == n;
}

/* line writes text with a path in UTF-8 and the end of a line. */
static int line(HANDLE f, const char *text, const WCHAR *path) {
  char utf8[3 * MAX_NAME];
  int n = WideCharToMultiByte(CP_UTF8, 0, path, -1, utf8, sizeof utf8, NULL, NULL);
  return n > 0 && put(f, text, (DWORD)strlen(text)) && put(f, utf8, n - 1) && put(f, "\n", 1);
}

/* header is a FilesystemHeader: common header, region set, offset of the root, and parents. */
#pragma pack(push, 1)
typedef struct { char magic[8]; uint32_t length; uint8_t type, reserved; uint16_t reserved2; uint32_t major, minor; uint64_t reserved3; GUID id; uint16_t count, reserved4; uint32_t reserved5; uint64_t root; uint32_t reserved6; uint16_t reserved7, parents; } header;
#pragma pack(pop)

static int32_t load(image *m, const WCHAR *old) {
  WCHAR path[MAX_NAME];
  image parent = *m;
  header h;
  DWORD n;
  _snwprintf(path, MAX_NAME, L"%ls\\%ls", m->dir, old);
  HANDLE f = CreateFileW(path, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
  if (f == INVALID_HANDLE_VALUE) return HR(ERROR_FILE_NOT_FOUND);
  BOOL ok = ReadFile(f, &h, sizeof h, &n, NULL) && n == sizeof h && !memcmp(h.magic, "cimfile0", 8);
  CloseHandle(f);
  parent.id = h.id;
  beside(&parent, L"objectid", path);
  FILE *list = ok ? _wfopen(path, L"rb") : NULL;
  if (!list) return HR(ERROR_FILE_CORRUPT);
  char text[3 * MAX_NAME];
  WCHAR wide[MAX_NAME];
  int32_t hr = 0;
  while (hr >= 0 && fgets(text, sizeof text, list)) {
    text[strcspn(text, "\n")] = 0;
    if (MultiByteToWideChar(CP_UTF8, 0, text + 2, -1, wide, MAX_NAME)) hr = add(m, wide, text[0] == 'd');
  }
  fclose(list);
  return hr;
}

/* ---- cimfs.dll ---- */

API CimCreateImage(const WCHAR *dir, const WCHAR *old, const WCHAR *name, image **out) {
  WCHAR path[MAX_NAME];
  image *m = calloc(1, sizeof *m);
  if (!m) return (int32_t)E_OUTOFMEMORY;
  if (!name || wcslen(dir) >= MAX_NAME / 2 || wcslen(name) >= MAX_NAME / 2) { free(m); return (int32_t)E_INVALIDARG; }
  wcscpy(m->dir, dir);
  wcscpy(m->name, name);
  int32_t hr = CoCreateGuid(&m->id);
  if (hr >= 0 && old) hr = load(m, old);
  if (hr >= 0) {
    beside(m, L"region", path);
    m->journal = make(path);
    if (m->journal == INVALID_HANDLE_VALUE) hr = HR(GetLastError());
  }
  if (hr < 0) { forget(m, L""); free(m); return hr; }
  *out = m;
  return 0;
}

API CimCommitImage(image *m) {
  WCHAR path[MAX_NAME], fresh[MAX_NAME];
  entry *last = NULL; /* directories were put in front of what is in them: written backwards */
  while (m->entries) { entry *e = m->entries; m->entries = e->next; e->next = last; last = e; }
  m->entries = last;
  beside(m, L"objectid", path);
  HANDLE f = make(path);
  int ok = f != INVALID_HANDLE_VALUE;
  for (entry *e = last; ok && e; e = e->next) ok = line(f, e->dir ? "d " : "f ", e->path);
  if (f != INVALID_HANDLE_VALUE) CloseHandle(f);
  header h = {.magic = "cimfile0", .length = sizeof h, .major = 3, .id = m->id, .count = 1};
  memcpy(h.magic, "cimfile0", 8);
  _snwprintf(path, MAX_NAME, L"%ls\\%ls", m->dir, m->name);
  _snwprintf(fresh, MAX_NAME, L"%ls.new", path);
  f = ok ? make(fresh) : INVALID_HANDLE_VALUE;
  ok = f != INVALID_HANDLE_VALUE && put(f, &h, sizeof h);
  if (f != INVALID_HANDLE_VALUE) CloseHandle(f);
  return ok && MoveFileExW(fresh, path, MOVEFILE_REPLACE_EXISTING) ? 0 : HR(GetLastError());
}

__declspec(dllexport) void WINAPI CimCloseImage(image *m) {
  CloseHandle(m->journal);
  while (m->entries) { entry *e = m->entries; m->entries = e->next; free(e); }
  free(m);
}

API CimCreateFile(image *m, const WCHAR *path, const metadata *f, image **stream) {
  char text[128];
  int32_t hr = add(m, path, f->attributes & FILE_ATTRIBUTE_DIRECTORY ? 1 : 0);
  if (hr < 0) return hr;
  snprintf(text, sizeof text, "file 0x%x %lld %u %u %u ", (unsigned)f->attributes, (long long)f->size, (unsigned)f->sd_size, (unsigned)f->reparse_size, (unsigned)f->ea_count);
  *stream = m;
  return line(m->journal, text, path) ? 0 : HR(ERROR_WRITE_FAULT);
}

API CimCreateAlternateStream(image *m, const WCHAR *path, uint64_t size, image **stream) {
  char text[64];
  snprintf(text, sizeof text, "stream %llu ", (unsigned long long)size);
  *stream = m;
  return line(m->journal, text, path) ? 0 : HR(ERROR_WRITE_FAULT);
}

API CimWriteStream(image *m, const void *p, uint32_t n) { return put(m->journal, p, n) ? 0 : HR(ERROR_DISK_FULL); }

__declspec(dllexport) void WINAPI CimCloseStream(image *m) { put(m->journal, "\n", 1); }

API CimDeletePath(image *m, const WCHAR *path) {
  if (!*find(m, path)) return HR(ERROR_FILE_NOT_FOUND);
  forget(m, path);
  return line(m->journal, "delete ", path) ? 0 : HR(ERROR_WRITE_FAULT);
}

API CimCreateHardLink(image *m, const WCHAR *path, const WCHAR *old) {
  entry *e = *find(m, old);
  if (!e || e->dir) return HR(ERROR_FILE_NOT_FOUND);
  int32_t hr = add(m, path, 0);
  return hr < 0 ? hr : line(m->journal, "link ", path) ? 0 : HR(ERROR_WRITE_FAULT);
}

/* ---- offreg.dll: a hive is a list of files ---- */

typedef struct hive { struct hive *next; WCHAR path[MAX_NAME]; } hive;
#define OR __declspec(dllexport) DWORD WINAPI

OR OROpenHive(const WCHAR *path, hive **out) {
  if (GetFileAttributesW(path) == INVALID_FILE_ATTRIBUTES) return ERROR_FILE_NOT_FOUND;
  if (wcslen(path) >= MAX_NAME || !(*out = calloc(1, sizeof **out))) return ERROR_NOT_ENOUGH_MEMORY;
  wcscpy((*out)->path, path);
  return 0;
}

OR ORCloseHive(hive *h) {
  while (h) { hive *next = h->next; free(h); h = next; }
  return 0;
}

OR ORMergeHives(hive **hives, DWORD n, hive **out) {
  hive **end = out;
  for (*out = NULL; n; n--, hives++)
    for (hive *h = *hives; h; h = h->next) {
      DWORD bad = OROpenHive(h->path, end);
      if (bad) { ORCloseHive(*out); return bad; }
      end = &(*end)->next;
    }
  return 0;
}

OR ORSaveHive(hive *h, const WCHAR *path, DWORD major, DWORD minor) {
  HANDLE to = CreateFileW(path, GENERIC_WRITE, 0, NULL, CREATE_NEW, 0, NULL);
  DWORD bad = to == INVALID_HANDLE_VALUE ? GetLastError() : 0;
  for (; h && !bad; h = h->next) {
    char b[4096];
    DWORD n = 0;
    HANDLE from = CreateFileW(h->path, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    if (from == INVALID_HANDLE_VALUE) { bad = GetLastError(); break; }
    while (!bad && ReadFile(from, b, sizeof b, &n, NULL) && n) bad = put(to, b, n) ? 0 : ERROR_WRITE_FAULT;
    CloseHandle(from);
  }
  if (to != INVALID_HANDLE_VALUE) CloseHandle(to);
  return bad;
}

/* ---- computestorage.dll ---- */

API HcsFormatWritableLayerVhd(HANDLE disk) { return GetFileType(disk) == FILE_TYPE_DISK ? 0 : (int32_t)E_INVALIDARG; }
