"""Does with a generated client what scripts of administrators do: create, read, list, change, delete.

Arguments: the server's URL, and a user who has talked to the bot. The client is the package `baal_client`; the token is in ADMIN_TOKEN.
"""

import os
import sys
import time

from baal_client import AuthenticatedClient
from baal_client.api.agents import change_agent, create_agent, delete_agent, list_agents, read_agent
from baal_client.api.system import create_token, list_tokens, read_system, read_token, revoke_token
from baal_client.models import (
    AgentChange,
    AgentDetail,
    CreatedToken,
    ListToken,
    NewAgent,
    NewToken,
    Problem,
    Scope,
    System,
    Token,
    Visibility,
)
from baal_client.types import UNSET


def tokens(client):
    made = create_token.sync(client=client, body=NewToken(label="generated", scope=Scope.READ, days=1))
    assert isinstance(made, CreatedToken), made
    read = read_token.sync(made.id, client=client)
    assert isinstance(read, Token) and (read.label, read.scope) == ("generated", Scope.READ), read
    page = list_tokens.sync(client=client, limit=1)
    assert isinstance(page, ListToken) and page.items[0].id == made.id, page
    limited = AuthenticatedClient(base_url=client._base_url, token=made.secret)
    refused = read_system.sync(client=limited)
    assert isinstance(refused, Problem) and refused.type_ == "urn:baal:problem:forbidden", refused
    revoked = revoke_token.sync(made.id, client=client)
    assert isinstance(revoked, Token) and revoked.revoked_at is not None, revoked
    gone = read_token.sync(10**9, client=client)
    assert isinstance(gone, Problem) and gone.status == 404 and gone.request_id is not UNSET, gone


def agents(client, owner):
    new = NewAgent(owner_id=owner, name="Ada", system_prompt="You are a pirate.", visibility=Visibility.PRIVATE)
    made = create_agent.sync_detailed(client=client, body=new, idempotency_key="crud-1")
    assert made.status_code == 201 and isinstance(made.parsed, AgentDetail), made
    assert made.headers["Location"] == f"/api/v1/agents/{made.parsed.id}", made.headers
    again = create_agent.sync(client=client, body=new, idempotency_key="crud-1")
    assert isinstance(again, AgentDetail) and again.id == made.parsed.id, again
    id = made.parsed.id
    running(client, id)

    page = list_agents.sync(client=client, owner_id=owner)
    assert [agent.id for agent in page.items] == [id], page
    read = read_agent.sync_detailed(id, client=client)
    change = AgentChange(name="Grace", visibility=Visibility.PUBLIC)
    changed = change_agent.sync(id, client=client, body=change, if_match=read.headers["ETag"])
    assert isinstance(changed, AgentDetail) and changed.name == "Grace", changed
    late = change_agent.sync(id, client=client, body=AgentChange(name="Bert"), if_match=read.headers["ETag"])
    assert isinstance(late, Problem) and late.status == 412, late
    refused = create_agent.sync(client=client, body=NewAgent(owner_id=owner, name=" ", system_prompt="x"))
    assert isinstance(refused, Problem) and refused.errors[0].field == "name", refused

    deleted = delete_agent.sync_detailed(id, client=client)
    assert deleted.status_code == 202, deleted
    gone = read_agent.sync(id, client=client)
    assert isinstance(gone, Problem) and gone.status == 404, gone


def running(client, id):
    """Waits until the agent runs."""
    for _ in range(400):
        agent = read_agent.sync(id, client=client)
        if agent.status == "running":
            return
        time.sleep(0.1)
    raise AssertionError(f"it does not come to life: {agent}")


def main():
    client = AuthenticatedClient(base_url=sys.argv[1], token=os.environ["ADMIN_TOKEN"])
    system = read_system.sync(client=client)
    assert isinstance(system, System) and system.version, system
    tokens(client)
    agents(client, int(sys.argv[2]))
    print("done")


main()
