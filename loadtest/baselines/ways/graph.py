"""Way 17: a LangGraph graph of one node whose checkpointer keeps a thread's messages, in Redis or in PostgreSQL.

``durability="exit"`` is cheaper than LangGraph's default: one checkpoint for each turn and none between its steps. A
message's id is its turn id, so a repeated one is found in the state that was loaded anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage  # type: ignore[import-not-found, unused-ignore]
from langgraph.graph import END, START, MessagesState, StateGraph  # type: ignore[import-not-found, unused-ignore]
from langgraph.runtime import Runtime  # type: ignore[import-not-found, unused-ignore]

from loadtest.baselines.chat import Message, Said, Turn, Way, next_turn


class LangGraph(Way):
    """A thread for each session. Turns of one thread aren't serialised, as in the open-source framework."""

    def __init__(self, checkpointer: Any) -> None:
        graph = StateGraph(MessagesState, context_schema=Message)
        graph.add_node("agent", _agent)
        graph.add_edge(START, "agent")
        graph.add_edge("agent", END)
        self._graph: Any = graph.compile(checkpointer=checkpointer)

    async def say(self, message: Message) -> Said:
        sent = HumanMessage(message.text, id=message.turn_id)
        config = _thread(message.session_id)
        state = await self._graph.ainvoke({"messages": [sent]}, config, context=message, durability="exit")
        talk = _talk(state["messages"])
        turn = next(turn for turn in talk if turn["turn_id"] == message.turn_id)
        return Said(turn, turn is not talk[-1])

    async def talk(self, session_id: str, client_state: str) -> list[Turn]:
        state = await self._graph.aget_state(_thread(session_id))
        return _talk(state.values.get("messages", []))


def _thread(session_id: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": session_id}}


async def _agent(state: MessagesState, runtime: Runtime[Message]) -> dict[str, list[Any]]:
    """The node: the reply to the message, unless the state has it."""
    message: Message = runtime.context
    turn, known = await next_turn(_talk(state["messages"]), message)
    return {"messages": [] if known else [AIMessage(turn["reply"], id=f"reply:{message.turn_id}")]}


def _talk(messages: Sequence[Any]) -> list[Turn]:
    """Turns from the messages that have a reply. Two runs of one thread at once can leave them in any order."""
    replies = {each.id: each.content for each in messages if each.type == "ai"}
    answered = [each for each in messages if each.type == "human" and f"reply:{each.id}" in replies]
    return [
        {"turn_seq": number, "turn_id": each.id, "message": each.content, "reply": replies[f"reply:{each.id}"]}
        for number, each in enumerate(answered, start=1)
    ]
