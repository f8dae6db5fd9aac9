"""The agent with real virtual machines: create, use, remove; and that clones are not alike."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator

import pytest

from tests.vm.kit import DEFAULT_SHAPE, created, new_spec, output, sh
from wrenn.agent.doctor import examine
from wrenn.agent.sandboxes import State
from wrenn.agent.settings import Settings, WarmTemplate
from wrenn.agent.warm_up import WarmUp
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base import errors as e
from wrenn.guest import CommandLine
from wrenn.linux import cgroups
from wrenn.protocol.api import SHELL
from wrenn.vm import Shape


async def test_a_sandbox_runs_a_python_program(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    assert await output(sandbox, "python3 -c 'print(sum(range(10)))'") == "45\n"


async def test_the_template_is_as_promised(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    facts = await output(
        sandbox,
        "pwd; echo $HOME; git --version | cut -d' ' -f3; id -u user; df --output=avail -BM / | tail -1;"
        "stat -c %a /etc/hostname /etc/hosts; readlink /etc/mtab;"
        "for c in python3 python pip pip3 git ssh curl wget sudo ip ps bash less nano vi editor xz bzip2 unzip zip ping"
        " file cron crontab rsync modprobe; do command -v $c >/dev/null || echo no $c; done",
    )
    cwd, home, git, uid, free, *rest = facts.split()
    assert (cwd, home, uid) == ("/root", "/root", "1000")
    assert rest == ["644", "644", "../proc/self/mounts"]
    assert tuple(map(int, git.split(".")[:2])) >= (2, 28)
    assert int(free.rstrip("M")) > 4000, "free space is real inside the guest"
    assert await output(sandbox, "sudo -n id -u", user="user") == "0\n"
    assert await output(sandbox, "pwd", user="user") == "/home/user\n"
    assert "1 received" in await output(sandbox, "ping -c 1 -W 5 127.0.0.1", user="user")


async def test_pip_installs_without_a_virtual_environment(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    # An installation takes pip half a minute under emulation, so pip is asked whether it would refuse.
    asked = """
import venv, ensurepip
from pip._internal.configuration import Configuration
configuration = Configuration(isolated=False)
configuration.load()
print(configuration.get_value("global.break-system-packages"))
"""
    assert await output(sandbox, f"python3 -c '{asked}'") == "true\n"


async def test_every_process_speaks_utf_8_and_has_the_variables_of_the_image(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes, envs={"SET_BY": "sandbox"})
    script = 'echo "$LANG ${PYTHONUNBUFFERED-unset} ${SET_BY-unset}"'
    assert await output(sandbox, script) == "C.UTF-8 1 sandbox\n"
    assert await output(sandbox, "python3 -c 'print(\"grün\")'", user="user") == "grün\n"
    # What the image says is read again when it changes, and gives way to the sandbox and to the request.
    await output(sandbox, "printf 'LANG=\"C\"\\nPYTHONUNBUFFERED=\\nSET_BY=image\\n' > /etc/environment")
    assert await output(sandbox, script) == "C  sandbox\n"
    own = CommandLine("/bin/sh", ("-c", script), envs={"LANG": "POSIX"})
    assert (await sandbox.commands.run(own, timeout_s=10)).stdout == b"POSIX  sandbox\n"


async def test_the_modules_that_containers_need_are_loadable(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    modules = (
        "overlay veth bridge br_netfilter tun loop fuse nf_tables nft_chain_nat nft_compat nf_nat nf_conntrack iptable_nat"
        " iptable_filter ip6table_filter xt_MASQUERADE xt_conntrack xt_addrtype vxlan macvlan"
    )
    await output(sandbox, f"modprobe --dry-run -a {modules}")
    # Opening a device loads its module.
    await output(
        sandbox, 'python3 -c \'for name in ("fuse", "net/tun", "loop-control"): open(f"/dev/{name}", "rb")\''
    )
    await output(sandbox, f"modprobe -a {modules}")
    # Others load by themselves when something needs them.
    await output(
        sandbox, "ip link add type wireguard && ip link add br0 type bridge && ip link add type veth"
    )
    mounted = await output(
        sandbox,
        "cd /root && mkdir low up work all && echo below > low/file && "
        "mount -t overlay -o lowerdir=low,upperdir=up,workdir=work overlay all && cat all/file",
    )
    assert mounted == "below\n"
    controllers = (await output(sandbox, "cat /sys/fs/cgroup/cgroup.controllers")).split()
    assert {"cpu", "memory", "pids", "io"} <= set(controllers)


async def test_the_shell_of_text_commands_is_bash_where_the_image_has_it(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    script = CommandLine(SHELL, ("-c", 'echo "${BASH_VERSION:+bash}"; [[ a == a ]] && echo yes'))
    assert (await sandbox.commands.run(script, timeout_s=30)).stdout == b"bash\nyes\n"
    await output(sandbox, "mv /usr/bin/bash /usr/bin/bash-is-away")
    plain = CommandLine(SHELL, ("-c", 'echo "${BASH_VERSION:-none}"'))
    assert (await sandbox.commands.run(plain, timeout_s=30)).stdout == b"none\n"


async def test_a_template_that_cannot_be_warmed_up_is_reported_and_does_not_affect_others(
    agent: Agent,
) -> None:
    warm_up = WarmUp(agent.bases, WarmTemplate("unheard-of", DEFAULT_SHAPE))
    await warm_up.run()
    assert (warm_up.is_running, "unheard-of" in warm_up.failure) == (False, True)
    warm_up = WarmUp(agent.bases, WarmTemplate("minimal", DEFAULT_SHAPE))
    await asyncio.gather(warm_up.run(), created(agent.sandboxes))
    assert warm_up.failure == ""


async def test_clones_have_their_own_identity(agent: Agent) -> None:
    script = "hostname; cat /etc/machine-id; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'"
    sandboxes = [(await created(agent.sandboxes))[1] for _ in range(3)]
    seen = [tuple((await output(sandbox, script)).split()) for sandbox in sandboxes]
    for column in zip(*seen, strict=True):
        assert len(set(column)) == len(sandboxes), column
    tokens = {s.guest.headers("root")["X-Access-Token"] for s in sandboxes}
    assert len(tokens) == len(sandboxes)


async def test_the_clock_of_a_clone_is_right(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    before = time.time()
    guest = float(await output(sandbox, "date +%s.%N"))
    assert before - 1 < guest < time.time() + 1


async def test_variables_of_the_sandbox_reach_every_process(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes, envs={"COLOUR": "blue — ü"})
    assert (
        await output(sandbox, 'printf "%s %s" "$COLOUR" "$WRENN_SANDBOX_ID"') == f"blue — ü {spec.sandbox_id}"
    )


async def test_output_is_bytes(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    result = await sh(sandbox, r"printf '\377\000\376'; printf '\303' >&2; exit 7")
    assert (result.stdout, result.stderr, result.exit_code) == (b"\xff\x00\xfe", b"\xc3", 7)


async def test_a_command_that_does_not_exist_ends_with_127(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    result = await sandbox.commands.run(CommandLine("no-such-program"), timeout_s=10)
    assert result.exit_code == 127
    assert b"no-such-program" in result.stderr


async def test_a_timeout_kills_the_whole_process_group(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    with pytest.raises(e.DeadlineExceeded):
        await sh(sandbox, "sleep 4242 & sleep 4242", timeout_s=1)
    assert await output(sandbox, "pgrep -fc '[s]leep 4242' || true") == "0\n"


async def test_too_much_output_is_an_error_and_the_command_is_killed(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    with pytest.raises(e.TooLarge):
        await sh(sandbox, "cat /dev/zero | head -c 40000000; sleep 4343")
    assert await output(sandbox, "pgrep -fc '[s]leep 4343' || true") == "0\n"


async def test_a_background_process_is_listed_by_tag_until_it_ends(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    pid = await sandbox.commands.start(CommandLine("sleep", ("600",)), tag="nap")
    listed = await sandbox.commands.list()
    assert [(p.pid, p.tag, p.cmd, p.args) for p in listed] == [(pid, "nap", "sleep", ("600",))]
    await sandbox.commands.signal("nap", 9)
    assert (
        await output(sandbox, "for i in 1 2 3 4 5 6 7 8 9; do pgrep sleep || exit 0; sleep 0.1; done") == ""
    )
    assert await sandbox.commands.list() == []
    with pytest.raises(e.NotFound):
        await sandbox.commands.signal("nap", 9)


async def test_files_go_both_ways_unchanged(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    content = os.urandom(3_000_000)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    await sandbox.files.write("/root/deep/er/file", chunks(), user="root")
    async with sandbox.files.read("/root/deep/er/file", user="root") as download:
        assert download.size_b == len(content)
        assert b"".join([chunk async for chunk in download.chunks]) == content
    with pytest.raises(e.NotFound):
        async with sandbox.files.read("/root/none", user="root"):
            pass


async def test_a_user_has_only_the_rights_of_a_user(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    with pytest.raises(e.WrennError) as raised:
        await sandbox.files.make_dir("/root/by-user", user="user")
    assert isinstance(raised.value, (e.Forbidden, e.InvalidRequest))
    assert await output(sandbox, "ls /root") == ""


async def test_removing_twice_is_the_same_as_removing_once(agent: Agent, settings: Settings) -> None:
    spec, _ = await created(agent.sandboxes)
    await asyncio.gather(*(agent.sandboxes.remove(spec.sandbox_id) for _ in range(3)))
    await agent.sandboxes.remove(spec.sandbox_id)
    assert agent.sandboxes.list() == []
    assert not agent.layout.sandbox(spec.sandbox_id).exists()
    assert cgroups.members(agent.layout.cgroup(str(spec.sandbox_id))) == []
    with pytest.raises(e.NotFound):
        agent.sandboxes.get(spec.sandbox_id)


async def test_ensuring_again_gives_the_same_sandbox_and_another_spec_is_a_conflict(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await agent.sandboxes.ensure(spec)
    assert agent.sandboxes.get(spec.sandbox_id) is sandbox
    other = new_spec()
    with pytest.raises(e.Conflict):
        await agent.sandboxes.ensure(type(spec)(spec.sandbox_id, spec.team_id, "other", spec.shape))
    assert other.sandbox_id != spec.sandbox_id


async def test_an_unknown_template_leaves_nothing(agent: Agent) -> None:
    spec = new_spec(template="unheard-of")
    with pytest.raises(e.NotFound):
        await agent.sandboxes.ensure(spec)
    assert agent.sandboxes.list() == []
    assert not agent.layout.sandbox(spec.sandbox_id).exists()


async def test_removing_during_a_start_undoes_it(agent: Agent) -> None:
    spec = new_spec()
    starting = asyncio.create_task(agent.sandboxes.ensure(spec))
    await asyncio.sleep(0)
    await agent.sandboxes.remove(spec.sandbox_id)
    with pytest.raises(e.InvalidState):
        await starting
    assert not agent.layout.sandbox(spec.sandbox_id).exists()


async def test_a_killed_vmm_makes_the_sandbox_lost(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    sandbox.vm.handle.process.kill()
    async with asyncio.timeout(10):
        while agent.sandboxes.list()[0][0].state is not State.LOST:
            await asyncio.sleep(0.01)
    with pytest.raises(e.InvalidState):
        agent.sandboxes.get(spec.sandbox_id)


async def test_twenty_first_creates_boot_one_vm(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    shape = Shape(vcpus=1, memory_mb=192)  # used by no other test, so there is no base yet
    async with running_agent(settings) as agent:
        specs = [new_spec(shape=shape) for _ in range(20)]
        await asyncio.gather(*(agent.sandboxes.ensure(spec) for spec in specs))
        assert len([r for r in caplog.records if r.message == "base made"]) == 1
        assert len({r.process for r, _ in agent.sandboxes.list()}) == 20
        await asyncio.gather(*(agent.sandboxes.remove(spec.sandbox_id) for spec in specs))


async def test_sandboxes_survive_the_agent(settings: Settings) -> None:
    async with running_agent(settings) as first:
        spec, sandbox = await created(first.sandboxes)
        await output(sandbox, "echo kept > /root/file; sync")
        await sandbox.commands.start(CommandLine("sleep", ("900",)), tag="still")
    async with running_agent(settings) as second:
        adopted = second.sandboxes.get(spec.sandbox_id)
        assert await output(adopted, "cat /root/file") == "kept\n"
        assert [p.tag for p in await adopted.commands.list()] == ["still"]
        await second.sandboxes.remove(spec.sandbox_id)
    report = await examine(settings)
    assert report.leftovers == []


async def test_a_vm_that_died_without_the_agent_is_lost_and_can_be_removed(settings: Settings) -> None:
    async with running_agent(settings) as first:
        spec, sandbox = await created(first.sandboxes)
        process = sandbox.vm.handle.process
    process.kill()
    async with asyncio.timeout(10):
        await process.wait_exit()
    async with running_agent(settings) as second:
        ((record, running),) = second.sandboxes.list()
        assert (record.state, running) == (State.LOST, None)
        await second.sandboxes.remove(spec.sandbox_id)
    assert (await examine(settings)).leftovers == []


async def test_an_outdated_base_is_removed_at_start(settings: Settings) -> None:
    stale = settings.data_dir / "bases" / "0123456789abcdef01234567"
    async with running_agent(settings) as agent:
        await created(agent.sandboxes)
        current = {path.name for path in agent.layout.bases.iterdir()}
        stale.mkdir(mode=0o700)
        (stale / "manifest.json").write_text(
            '{"facts": {"template": "minimal", "vcpus": 1, "memory_mb": 256}}'
        )
        await agent.sandboxes.remove(agent.sandboxes.list()[0][0].spec.sandbox_id)
    async with running_agent(settings) as agent:
        assert {path.name for path in agent.layout.bases.iterdir()} == current
