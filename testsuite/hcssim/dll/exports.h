/* Every exported function: its name, what goes in and what comes out. The signatures are those that hcsshim declares. */
typedef uint64_t H;
typedef const WCHAR *S;
typedef WCHAR **W;
typedef const driver *D;
typedef const layer *L;

/* vmcompute.dll: compute systems */
API HcsEnumerateComputeSystems(S query, W list, W res) { return call(__func__, "s>WW", query, list, res); }
API HcsCreateComputeSystem(S id, S config, HANDLE user, H *h, W res) { return call(__func__, "ss>HW", id, config, h, res); }
API HcsOpenComputeSystem(S id, H *h, W res) { return call(__func__, "s>HW", id, h, res); }
API HcsCloseComputeSystem(H h) { return call(__func__, "h", h); }
API HcsStartComputeSystem(H h, S options, W res) { return call(__func__, "hs>W", h, options, res); }
API HcsShutdownComputeSystem(H h, S options, W res) { return call(__func__, "hs>W", h, options, res); }
API HcsTerminateComputeSystem(H h, S options, W res) { return call(__func__, "hs>W", h, options, res); }
API HcsPauseComputeSystem(H h, S options, W res) { return call(__func__, "hs>W", h, options, res); }
API HcsResumeComputeSystem(H h, S options, W res) { return call(__func__, "hs>W", h, options, res); }
API HcsSaveComputeSystem(H h, S options, W res) { return call(__func__, "hs>W", h, options, res); }
API HcsGetComputeSystemProperties(H h, S query, W out, W res) { return call(__func__, "hs>WW", h, query, out, res); }
API HcsModifyComputeSystem(H h, S config, W res) { return call(__func__, "hs>W", h, config, res); }
API HcsModifyServiceSettings(S settings, W res) { return call(__func__, "s>W", settings, res); }
API HcsGetServiceProperties(S query, W out, W res) { return call(__func__, "s>WW", query, out, res); }
API HcsRegisterComputeSystemCallback(H h, void *fn, void *ctx, H *out) { return add_listener(__func__, h, fn, ctx, out); }
API HcsUnregisterComputeSystemCallback(H id) { return remove_listener(__func__, id); }

/* vmcompute.dll: processes */
API HcsCreateProcess(H h, S params, process_info *info, H *p, W res) { return call(__func__, "hs>PHW", h, params, info, p, res); }
API HcsOpenProcess(H h, uint32_t pid, H *p, W res) { return call(__func__, "hu>HW", h, pid, p, res); }
API HcsCloseProcess(H p) { return call(__func__, "h", p); }
API HcsTerminateProcess(H p, W res) { return call(__func__, "h>W", p, res); }
API HcsSignalProcess(H p, S options, W res) { return call(__func__, "hs>W", p, options, res); }
API HcsGetProcessInfo(H p, process_info *info, W res) { return call(__func__, "h>PW", p, info, res); }
API HcsGetProcessProperties(H p, W out, W res) { return call(__func__, "h>WW", p, out, res); }
API HcsModifyProcess(H p, S settings, W res) { return call(__func__, "hs>W", p, settings, res); }
API HcsRegisterProcessCallback(H p, void *fn, void *ctx, H *out) { return add_listener(__func__, p, fn, ctx, out); }
API HcsUnregisterProcessCallback(H id) { return remove_listener(__func__, id); }

/* vmcompute.dll: layers */
API ActivateLayer(D d, S id) { return call(__func__, "ds", d, id); }
API CopyLayer(D d, S from, S to, L l, uint32_t n) { return call(__func__, "dssl", d, from, to, l, n); }
API CreateLayer(D d, S id, S parent) { return call(__func__, "dss", d, id, parent); }
API CreateSandboxLayer(D d, S id, H parent, L l, uint32_t n) { return call(__func__, "dsl", d, id, l, n); }
API DeactivateLayer(D d, S id) { return call(__func__, "ds", d, id); }
API DestroyLayer(D d, S id) { return call(__func__, "ds", d, id); }
API ExpandSandboxSize(D d, S id, uint64_t size) { return call(__func__, "dsh", d, id, size); }
API ExportLayer(D d, S id, S path, L l, uint32_t n) { return call(__func__, "dssl", d, id, path, l, n); }
API GetBaseImages(W out) { return call(__func__, ">W", out); }
API GrantVmAccess(S vm, S path) { return call(__func__, "ss", vm, path); }
API ImportLayer(D d, S id, S path, L l, uint32_t n) { return call(__func__, "dssl", d, id, path, l, n); }
API LayerExists(D d, S id, uint32_t *out) { return call(__func__, "ds>U", d, id, out); }
API NameToGuid(S name, GUID *out) { return call(__func__, "s>G", name, out); }
API PrepareLayer(D d, S id, L l, uint32_t n) { return call(__func__, "dsl", d, id, l, n); }
API ProcessBaseImage(S path) { return call(__func__, "s", path); }
API ProcessUtilityImage(S path) { return call(__func__, "s", path); }
API UnprepareLayer(D d, S id) { return call(__func__, "ds", d, id); }

/* for virtdisk.dll */
API HcssimAttachVirtualDisk(D d, S disk) { return call("AttachVirtualDisk", "ds", d, disk); }

/* GetLayerMountPath answers the length, with its end, when it is given no buffer. */
API GetLayerMountPath(D d, S id, uintptr_t *length, WCHAR *buf) {
  WCHAR *path = NULL;
  int32_t hr = call(__func__, "ds>W", d, id, &path);
  uintptr_t n = path ? wcslen(path) + 1 : 0;
  if (hr >= 0 && buf && *length < n) hr = (int32_t)0x8007007a; /* ERROR_INSUFFICIENT_BUFFER */
  else if (hr >= 0 && buf && n) memcpy(buf, path, n * 2);
  *length = n;
  CoTaskMemFree(path);
  return hr;
}

/* vmcompute.dll: version 1 of the network API */
API HNSCall(S method, S path, S object, W response) { return call(__func__, "sss>W", method, path, object, response); }

/* computenetwork.dll: each kind of object has the same functions */
#define OBJECT(One, Many)                                                                                                       \
  API HcnEnumerate##Many(S query, W out, W res) { return call(__func__, "s>WW", query, out, res); }                            \
  API HcnOpen##One(GUID *id, H *h, W res) { return call(__func__, "g>HW", id, h, res); }                                       \
  API HcnModify##One(H h, S settings, W res) { return call(__func__, "hs>W", h, settings, res); }                              \
  API HcnQuery##One##Properties(H h, S query, W out, W res) { return call(__func__, "hs>WW", h, query, out, res); }            \
  API HcnDelete##One(GUID *id, W res) { return call(__func__, "g>W", id, res); }                                               \
  API HcnClose##One(H h) { return call(__func__, "h", h); }
#define CREATED(One) \
  API HcnCreate##One(GUID *id, S settings, H *h, W res) { return call(__func__, "gs>HW", id, settings, h, res); }
OBJECT(Network, Networks) CREATED(Network)
OBJECT(Namespace, Namespaces) CREATED(Namespace)
OBJECT(LoadBalancer, LoadBalancers) CREATED(LoadBalancer)
OBJECT(SdnRoute, SdnRoutes) CREATED(SdnRoute)
OBJECT(Endpoint, Endpoints)
API HcnCreateEndpoint(H network, GUID *id, S settings, H *h, W res) { return call(__func__, "hgs>HW", network, id, settings, h, res); }
