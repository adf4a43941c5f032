# Acceptance of Slipway on a real Windows host: what wine and a simulator cannot show. Needs Windows Server 2019 or later with the Containers
# feature (and Hyper-V for that part), an elevated PowerShell (5.1, which Windows has, or 7), and the internet or a registry with the image.
#
#   .\windows-acceptance.ps1 -Bin C:\slipway [-Image mcr.microsoft.com/windows/nanoserver:ltsc2022] [-HyperV] [-CniConf DIR -CniBin DIR]
#
# Bin has slipwayd.exe, slipway.exe and slipway-shim.exe; crictl.exe beside them has pods tried too. It uses folders, a pipe and a service of its own, and
# removes them. Each check prints ok, FAILED or skipped; the exit code is the number of failures.
# It has not been run yet: docs/windows.md says how it was checked.
#Requires -Version 5.1
#Requires -RunAsAdministrator
param(
    [Parameter(Mandatory)] [string] $Bin,
    [string] $Image = 'mcr.microsoft.com/windows/nanoserver:ltsc2022',
    [string] $CniConf = 'C:\Program Files\containerd\cni\conf',
    [string] $CniBin = 'C:\Program Files\containerd\cni\bin',
    [switch] $HyperV
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $false # exit codes are looked at here, by 7 too
$base = Join-Path $env:ProgramData 'Slipway-acceptance'
$pipe = '\\.\pipe\slipway-acceptance'
$service = 'slipwayd-acceptance'
$failures = 0

$podId, $containerId, $complaint = $null, $null, ''

# Runs a program, answers what it writes as one text, and keeps what it complains of in $complaint. Windows PowerShell makes errors of lines on standard
# error, at which 'Stop' would end everything.
function Invoke-Program([string] $Name, [object[]] $With) {
    $ErrorActionPreference = 'Continue'
    $lines = @(& (Join-Path $Bin $Name) @With 2>&1)
    # Not Out-String, which breaks lines at the width of the window.
    $script:complaint = (@($lines | Where-Object { $_ -is [Management.Automation.ErrorRecord] }) -join "`n").Trim()
    (@($lines | Where-Object { $_ -isnot [Management.Automation.ErrorRecord] }) -join "`n").Trim()
}
function Slipway { Invoke-Program 'slipway.exe' (@('--address', $pipe) + $args) }
function Slipwayd { Invoke-Program 'slipwayd.exe' $args }
function Crictl { Invoke-Program 'crictl.exe' (@('--runtime-endpoint', 'npipe:////./pipe/slipway-acceptance', '--timeout', '5m') + $args) }
# Does, and throws what the program said when it fails.
function Must([scriptblock] $That) {
    $said = & $That
    if ($LASTEXITCODE -ne 0) { throw "exit code ${LASTEXITCODE}: $said $script:complaint" }
    $said
}
function Check([string] $What, [scriptblock] $That) {
    try {
        $got = & $That
        if ($got -isnot [bool] -or -not $got) { throw "answered '$got'" }
        Write-Host "ok      $What"
    } catch {
        Write-Host "FAILED  ${What}: $_"
        $script:failures++
    }
}
# Waits a minute for what happens by itself.
function Wait-For([scriptblock] $That) {
    for ($try = 0; $try -lt 120; $try++) {
        if (& $That) { return $true }
        Start-Sleep -Milliseconds 500
    }
    $false
}
function Wait-Daemon { Wait-For { Slipway version | Out-Null; $LASTEXITCODE -eq 0 } }
function Stop-Daemon { Stop-Process -Force -Id (Get-CimInstance Win32_Service -Filter "Name='$service'").ProcessId }
# The shim's processes, which have our state folder on their command line.
function Get-Shim { Get-CimInstance Win32_Process -Filter "Name='slipway-shim.exe'" | Where-Object CommandLine -like "*$base*" }
# Only administrators and the system are in a list of SIDs.
function Test-Closed([string[]] $Sids) { -not ($Sids | Where-Object { $_ -notin 'S-1-5-32-544', 'S-1-5-18' }) }

function Test-Service {
    Check 'install the service' {
        New-Item -ItemType Directory -Force $base | Out-Null
        # TOML's literal strings take backslashes as they are.
        Set-Content -Encoding ASCII "$base\config.toml" "[cri]`ncni_conf_dir = '$CniConf'`ncni_bin_dirs = ['$CniBin']"
        Slipwayd service --name $service install '--' --config "$base\config.toml" --root "$base\root" --state "$base\state" --address $pipe | Out-Null
        $LASTEXITCODE -eq 0
    }
    Check 'start it' { Slipwayd service --name $service start | Out-Null; $LASTEXITCODE -eq 0 }
    if ($script:failures) { throw 'the daemon does not run: nothing else can be checked. The event log of applications says why.' }
    Check 'events are in the event log' { @(Get-WinEvent -MaxEvents 1 -FilterHashtable @{ LogName = 'Application'; ProviderName = $service }).Count -eq 1 }
    Check 'folders are for administrators and the system only' {
        Test-Closed @((Get-Acl "$base\root").Access | ForEach-Object { $_.IdentityReference.Translate([Security.Principal.SecurityIdentifier]).Value })
    }
    Check 'a user who is no administrator cannot open the pipe' {
        # The pipe's list, read through a handle: a client of another user would get access denied by it.
        $client = New-Object IO.Pipes.NamedPipeClientStream '.', 'slipway-acceptance', ([IO.Pipes.PipeDirection]::InOut)
        $client.Connect(5000)
        try {
            # A method of .NET Framework, and of a class of its own in .NET.
            if ($PSVersionTable.PSEdition -eq 'Core') { $list = [IO.Pipes.PipesAclExtensions]::GetAccessControl($client) } else { $list = $client.GetAccessControl() }
        } finally { $client.Dispose() }
        Test-Closed @($list.GetAccessRules($true, $true, [Security.Principal.SecurityIdentifier]) | ForEach-Object { $_.IdentityReference.Value })
    }
}

function Test-Containers {
    Check "pull $Image" { Must { Slipway pull $Image } | Out-Null; $true }
    Check 'run, output and removal' { (Slipway run --rm $Image cmd /c 'echo hello') -match 'hello' }
    Check 'the exit code' { Slipway run --rm $Image cmd /c 'exit 7' | Out-Null; $LASTEXITCODE -eq 7 }
    Check 'a mounted folder, read only' {
        New-Item -ItemType Directory -Force "$base\share" | Out-Null
        Set-Content "$base\share\in.txt" 'from the host'
        $read = Slipway run --rm -v "$base\share:C:\share:ro" $Image cmd /c 'type C:\share\in.txt & echo x > C:\share\out.txt'
        $read -match 'from the host' -and -not (Test-Path "$base\share\out.txt")
    }
    Check 'a container runs with a limit of memory' { Must { Slipway run --rm -m '256m' $Image cmd /c 'echo within' } | Out-Null; $true }
    Check 'a container in the background, exec and logs' {
        Must { Slipway run -d --name stays $Image cmd /c 'echo up & ping -t 127.0.0.1 > nul' } | Out-Null
        (Slipway exec stays cmd /c 'echo inside') -match 'inside' -and (Wait-For { (Slipway logs stays) -match 'up' })
    }
    Check 'what is written is seen by exec, and not in another container' {
        Must { Slipway exec stays cmd /c 'echo x > C:\mine.txt' } | Out-Null
        (Slipway exec stays cmd /c 'dir /b C:\') -match 'mine.txt' -and (Slipway run --rm $Image cmd /c 'dir /b C:\') -notmatch 'mine.txt'
    }
    Check 'network nat: an address of its own' { (Slipway run --rm --network nat $Image cmd /c 'ipconfig') -match '172\.31\.' }
}

function Test-Deaths {
    Check 'the daemon is killed: the container goes on' {
        Stop-Daemon
        # Windows starts it again by itself, after 2 s.
        (Wait-Daemon) -and (Slipway exec stays cmd /c 'echo after the daemon') -match 'after the daemon'
    }
    Check 'the shim is killed: another adopts the container' {
        $first = (Get-Shim).ProcessId
        Stop-Process -Force -Id $first
        (Wait-For { (Slipway exec stays cmd /c 'echo after the shim') -match 'after the shim' }) -and (Get-Shim).ProcessId -ne $first
    }
    Check 'the service is stopped and started: the container goes on' {
        Must { Slipwayd service --name $service stop } | Out-Null
        Must { Slipwayd service --name $service start } | Out-Null
        (Slipway exec stays cmd /c 'echo after the service') -match 'after the service'
    }
    Check 'TERM ends it, and it is removed' {
        Must { Slipway kill -s TERM stays } | Out-Null
        $ended = Wait-For { (Slipway ps) -notmatch 'stays' }
        Must { Slipway rm stays } | Out-Null
        $ended
    }
}

# One pod with one container through CRI, as kubelet would have it. Class is a runtime class, '' the default one.
function Test-Pod([string] $Class) {
    $named = "pod ($(if ($Class) { $Class } else { 'default class' }))"
    $logs = Join-Path $base "logs-$Class"
    New-Item -ItemType Directory -Force $logs | Out-Null
    $pod = @{ metadata = @{ name = "acceptance$Class"; uid = "uid$Class"; namespace = 'default'; attempt = 0 }; log_directory = $logs; windows = @{} }
    $container = @{
        metadata = @{ name = 'web'; attempt = 0 }; image = @{ image = $Image }; log_path = 'web.log'
        command = @('cmd', '/c', 'echo up & ping -t 127.0.0.1 > nul')
        windows = @{ resources = @{ cpu_maximum = 5000; memory_limit_in_bytes = 536870912 }; security_context = @{ run_as_username = 'ContainerUser' } }
    }
    # ASCII: Windows PowerShell begins UTF-8 with a mark that crictl does not take.
    ConvertTo-Json -Depth 8 $pod | Set-Content -Encoding ASCII "$base\pod.json"
    ConvertTo-Json -Depth 8 $container | Set-Content -Encoding ASCII "$base\container.json"
    $with = @()
    if ($Class) { $with = '--runtime', $Class } # Windows PowerShell drops arguments that are empty
    $script:podId, $script:containerId = $null, $null
    Check "${named}: run" { $script:podId = Must { Crictl runp @with "$base\pod.json" }; $true }
    if (-not $script:podId) { return }
    Check "${named}: create and start a container" {
        $script:containerId = Must { Crictl create $script:podId "$base\container.json" "$base\pod.json" }
        Must { Crictl start $script:containerId } | Out-Null
        $true
    }
    if ($script:containerId) {
        Check "${named}: its user" { (Crictl exec -s $script:containerId cmd /c 'echo %USERNAME%') -match 'ContainerUser' }
        Check "${named}: its log, in Kubernetes' format" { Wait-For { (Get-Content "$logs\web.log" -ErrorAction SilentlyContinue) -match ' stdout [FP] up' } }
        Check "${named}: an address" { (Must { Crictl inspectp $script:podId } | ConvertFrom-Json).status.network.ip -match '^\d+\.' }
        Check "${named}: statistics" {
            $all = Must { Crictl statsp --output json $script:podId } | ConvertFrom-Json
            [long] $all.stats[0].windows.memory.workingSetBytes.value -gt 0
        }
        Check "${named}: the daemon is killed, and it goes on" {
            Stop-Daemon
            (Wait-Daemon) -and (Crictl exec -s $script:containerId cmd /c 'echo still here') -match 'still here'
        }
    }
    Check "${named}: stop and remove" {
        Must { Crictl stopp $script:podId } | Out-Null
        Must { Crictl rmp $script:podId } | Out-Null
        (Must { Crictl pods -q }) -eq '' -and (Must { Crictl ps -a -q }) -eq ''
    }
}

# The suites on the real services, by their test programs (GOOS=windows go test -c), where these are beside the others.
function Test-Suites {
    foreach ($suite in @(
            @{ Program = 'hns.test.exe'; With = @('-test.run', 'TestAttach/nat|TestAttachFails') },
            @{ Program = 'windows.test.exe'; With = @('-test.v') },
            @{ Program = 'windowsfilter.test.exe'; With = @('-test.v') })) {
        if (Test-Path (Join-Path $Bin $suite.Program)) {
            Check "suite $($suite.Program)" { Invoke-Program $suite.Program $suite.With | Set-Content "$base\$($suite.Program).log"; $LASTEXITCODE -eq 0 }
        } else {
            Write-Host "skipped suite $($suite.Program): it is not in $Bin"
        }
    }
}

# Layers belong to the system: only the daemon's own removal gets rid of them.
function Remove-All {
    Slipway rm -f stays | Out-Null
    if ($script:podId) { Crictl rmp -f $script:podId | Out-Null }
    Check 'without the image no layer stays' {
        Slipway rmi $Image | Out-Null
        if ($script:podId) { Crictl rmi $Image | Out-Null }
        Wait-For { @(Get-ChildItem "$base\root\windowsfilter" -Directory -ErrorAction SilentlyContinue).Count -eq 0 }
    }
    Check 'uninstall the service' { Must { Slipwayd service --name $service uninstall } | Out-Null; $true }
    Check 'no shim without containers stays' { Wait-For { @(Get-Shim).Count -eq 0 } }
    Check 'no folder stays' { Remove-Item -Recurse -Force $base; -not (Test-Path $base) }
}

try {
    Test-Service
    Test-Containers
    Test-Deaths
    if (Test-Path (Join-Path $Bin 'crictl.exe')) {
        Check 'crictl pulls for pods' { Must { Crictl pull $Image } | Out-Null; $true }
        Test-Pod ''
        if ($HyperV) { Test-Pod 'runhcs-wcow-hypervisor' }
    } else {
        Write-Host "skipped pods: crictl.exe is not in $Bin"
    }
    Test-Suites
} catch {
    Write-Host "FAILED  $_"
    $failures++
} finally {
    Remove-All
}
Write-Host "$failures failures"
exit $failures
