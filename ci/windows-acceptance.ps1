# Acceptance of Slipway on a real Windows host: what wine and a simulator cannot show. Needs Windows Server 2019 or later with the Containers
# feature (and Hyper-V for that part), an elevated PowerShell, and the internet or a registry with the image.
#
#   .\windows-acceptance.ps1 -Bin C:\slipway [-Image mcr.microsoft.com/windows/nanoserver:ltsc2022] [-HyperV]
#
# It uses folders, a pipe and a service of its own, and removes them. Each check prints ok or FAILED; the exit code is the number of failures.
# It has not been run yet: see docs/windows.md.
param(
    [Parameter(Mandatory)] [string] $Bin,
    [string] $Image = 'mcr.microsoft.com/windows/nanoserver:ltsc2022',
    [switch] $HyperV
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$base = Join-Path $env:ProgramData 'Slipway-acceptance'
$pipe = '\\.\pipe\slipway-acceptance'
$service = 'slipwayd-acceptance'
$failures = 0

function Slipway { & (Join-Path $Bin 'slipway.exe') --address $pipe @args 2>&1 | Out-String }
function Slipwayd { & (Join-Path $Bin 'slipwayd.exe') @args 2>&1 | Out-String }
function Check([string] $What, [scriptblock] $That) {
    try {
        $got = & $That
        if ($got -isnot [bool] -or -not $got) { throw "answered $got" }
        Write-Host "ok      $What"
    } catch {
        Write-Host "FAILED  ${What}: $_"
        $script:failures++
    }
}
# Asks the shim's process, which has our state folder on its command line.
function Shim { Get-CimInstance Win32_Process -Filter "Name='slipway-shim.exe'" | Where-Object CommandLine -like "*$base*" }

try {
    # Service, files and pipe.
    Check 'install the service' { Slipwayd service --name $service install '--' --root "$base\root" --state "$base\state" --address $pipe | Out-Null; $LASTEXITCODE -eq 0 }
    Check 'start it' { Slipwayd service --name $service start | Out-Null; $LASTEXITCODE -eq 0 }
    Check 'events are in the event log' { @(Get-EventLog -LogName Application -Source $service -Newest 1).Count -eq 1 }
    Check 'folders are for administrators and the system only' {
        $rules = (Get-Acl "$base\root").Access | ForEach-Object { $_.IdentityReference.Translate([Security.Principal.SecurityIdentifier]).Value }
        -not ($rules | Where-Object { $_ -notin 'S-1-5-32-544', 'S-1-5-18' })
    }
    Check 'a user who is no administrator cannot open the pipe' {
        # The pipe's list, read through a handle: a client of another user would get access denied by it.
        $client = New-Object IO.Pipes.NamedPipeClientStream '.', 'slipway-acceptance', ([IO.Pipes.PipeDirection]::InOut)
        $client.Connect(5000)
        $rules = $client.GetAccessControl().GetAccessRules($true, $true, [Security.Principal.SecurityIdentifier]) | ForEach-Object { $_.IdentityReference.Value }
        $client.Dispose()
        -not ($rules | Where-Object { $_ -notin 'S-1-5-32-544', 'S-1-5-18' })
    }

    # Images and containers with process isolation.
    Check "pull $Image" { Slipway pull $Image | Out-Null; $LASTEXITCODE -eq 0 }
    Check 'run, output and removal' { (Slipway run --rm $Image cmd /c 'echo hello') -match 'hello' }
    Check 'the exit code' { Slipway run --rm $Image cmd /c 'exit 7' | Out-Null; $LASTEXITCODE -eq 7 }
    Check 'a mounted folder, read only' {
        New-Item -ItemType Directory -Force "$base\share" | Out-Null
        Set-Content "$base\share\in.txt" 'from the host'
        (Slipway run --rm -v "$base\share:C:\share:ro" $Image cmd /c 'type C:\share\in.txt & echo x > C:\share\out.txt') -match 'from the host' -and -not (Test-Path "$base\share\out.txt")
    }
    Check 'limits of memory are kept' { Slipway run --rm -m 256m $Image cmd /c 'echo within' | Out-Null; $LASTEXITCODE -eq 0 }
    Check 'a container in the background, exec and logs' {
        Slipway run -d --name stays $Image cmd /c 'echo up & ping -t 127.0.0.1 > nul' | Out-Null
        (Slipway exec stays cmd /c 'echo inside') -match 'inside' -and (Slipway logs stays) -match 'up'
    }
    Check 'what is written is seen by exec, and not in another container' {
        Slipway exec stays cmd /c 'echo x > C:\mine.txt' | Out-Null
        (Slipway exec stays cmd /c 'dir /b C:\') -match 'mine.txt' -and (Slipway run --rm $Image cmd /c 'dir /b C:\') -notmatch 'mine.txt'
    }

    # Deaths.
    Check 'the daemon is killed: the container goes on' {
        Stop-Process -Force -Id (Get-CimInstance Win32_Service -Filter "Name='$service'").ProcessId
        Slipwayd service --name $service start | Out-Null
        (Slipway exec stays cmd /c 'echo after the daemon') -match 'after the daemon'
    }
    Check 'the shim is killed: another adopts the container' {
        $first = (Shim).ProcessId
        Stop-Process -Force -Id $first
        (Slipway exec stays cmd /c 'echo after the shim') -match 'after the shim' -and (Shim).ProcessId -ne $first
    }
    Check 'the service is stopped and started: the container goes on' {
        Slipwayd service --name $service stop | Out-Null
        Slipwayd service --name $service start | Out-Null
        (Slipway exec stays cmd /c 'echo after the service') -match 'after the service'
    }
    Check 'TERM ends it, and it is removed' { Slipway kill -s TERM stays | Out-Null; Start-Sleep 10; Slipway rm -f stays | Out-Null; $LASTEXITCODE -eq 0 }

    # Networks: what network/hns does, by its test program (go test -c ./network/hns with GOOS=windows), when it is beside the others.
    if (Test-Path (Join-Path $Bin 'hns.test.exe')) {
        Check 'networks, namespaces and endpoints of HNS' { & (Join-Path $Bin 'hns.test.exe') '-test.run' 'TestAttach/nat|TestAttachFails' | Out-Null; $LASTEXITCODE -eq 0 }
    }

    # The executor's and the driver's own suites on the real service, when their test programs are there.
    foreach ($suite in 'windows.test.exe', 'windowsfilter.test.exe') {
        if (Test-Path (Join-Path $Bin $suite)) {
            Check "suite $suite" { & (Join-Path $Bin $suite) '-test.v' | Out-File "$base\$suite.log"; $LASTEXITCODE -eq 0 }
        }
    }
    if ($HyperV) {
        Check 'Hyper-V isolation: see docs/windows.md for how a client asks for it' { & (Join-Path $Bin 'windows.test.exe') '-test.run' 'TestLocal/hyperv=true' | Out-Null; $LASTEXITCODE -eq 0 }
    }
} finally {
    Slipway rm -f stays | Out-Null
    Check 'uninstall the service' { Slipwayd service --name $service uninstall | Out-Null; $LASTEXITCODE -eq 0 }
    Check 'no shim without containers stays' { Start-Sleep 3; @(Shim).Count -eq 0 }
    # Layers belong to the system: only the daemon's own removal, or this with backup privileges, deletes them.
    Check 'no folder of a container stays' { @(Get-ChildItem "$base\state\shim\tasks" -Recurse -Directory -ErrorAction SilentlyContinue | Where-Object Name -eq 'rootfs').Count -eq 0 }
}
Write-Host "$failures failures"
exit $failures
