"""Puts folder, data source, dashboards, contact point and annotations into a Grafana, over its HTTP API. Done twice, it changes nothing the second time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grafana_client import GrafanaApi
from grafana_client.client import GrafanaClientError, GrafanaException, GrafanaTimeoutError, GrafanaUnauthorizedError

from monitor.errors import BarographError
from monitor.grafana.dashboards import dashboards

FOLDER, SOURCE, CONTACT = "barograph", "barograph-prometheus", "barograph-contact"
MAX_ANNOTATIONS = 500


class GrafanaError(BarographError):
    """Grafana did not do what it was asked."""


@dataclass(frozen=True)
class Grafana:
    """One Grafana. credential: a service account's token, or (user, password)."""

    url: str
    credential: str | tuple[str, str]
    tell: Callable[[str], None] = lambda line: None

    def provision(self, prometheus: str, webhook: str | None, verdicts: Iterable[dict[str, Any]] = ()) -> None:
        """prometheus: its address as Grafana reaches it. webhook: where alerts go. verdicts: records of armed ones. Raises GrafanaError."""
        with self._asking("the address itself"):
            api = GrafanaApi.from_url(self.url, credential=self.credential, timeout=15)
            api.client.s.max_redirects = 0  # what is meant for this Grafana goes to no other
        with self._asking(f"folder {FOLDER}"):
            self._tell("folder", self._folder(api))
        with self._asking(f"data source {SOURCE}"):
            self._tell("data source", self._source(api, prometheus))
        for name, text in dashboards().items():
            with self._asking(f"dashboard {name}"):
                self._tell(f"dashboard {name}", self._dashboard(api, json.loads(text)))
        if webhook is not None:
            with self._asking(f"contact point {CONTACT}"):
                self._tell("contact point", self._contact(api, webhook))
        with self._asking("annotations"):
            made = self._annotate(api, verdicts)
        if made:
            self.tell(f"annotations: {made} made")

    def _folder(self, api: Any) -> str:
        found = _or_none(lambda: api.folder.get_folder(FOLDER))
        if found is None:
            api.folder.create_folder("Barograph", uid=FOLDER)
            return "made"
        return "was there"

    def _source(self, api: Any, prometheus: str) -> str:
        wanted = {
            "uid": SOURCE, "name": "Barograph Prometheus", "type": "prometheus", "url": prometheus, "access": "proxy", "isDefault": False,
            "jsonData": {"httpMethod": "POST", "exemplarTraceIdDestinations": [{"name": "trace_id", "url": "", "urlDisplayLabel": "trace"}]},
        }  # fmt: skip
        found = _or_none(lambda: api.datasource.get_datasource_by_uid(SOURCE))
        if found is None:
            api.datasource.create_datasource(wanted)
            return "made"
        if found.get("url") == prometheus:  # whatever else somebody changed there stays
            return "was there"
        api.datasource.update_datasource_by_uid(SOURCE, {**found, "url": prometheus})
        return "changed"

    def _dashboard(self, api: Any, wanted: dict[str, Any]) -> str:
        for variable in wanted["templating"]["list"]:
            if variable["type"] == "datasource":
                variable["current"] = {"text": "Barograph Prometheus", "value": SOURCE, "selected": True}
        found = _or_none(lambda: api.dashboard.get_dashboard(wanted["uid"]))
        if found is not None and _same(found["dashboard"], wanted):
            return "was there"
        api.dashboard.update_dashboard(
            {"dashboard": wanted, "folderUid": FOLDER, "overwrite": True, "message": "barograph grafana provision"}
        )
        return "made" if found is None else "changed"

    def _contact(self, api: Any, webhook: str) -> str:
        wanted = {"uid": CONTACT, "name": "Barograph", "type": "webhook", "settings": {"url": webhook}, "disableResolveMessage": False}
        found = next((each for each in api.alertingprovisioning.get_contactpoints() if each.get("uid") == CONTACT), None)
        if found is None:
            api.alertingprovisioning.create_contactpoint(wanted, disable_provenance=True)
            return "made"
        if found.get("settings", {}).get("url") == webhook:
            return "was there"
        api.alertingprovisioning.update_contactpoint(CONTACT, wanted, disable_provenance=True)
        return "changed"

    def _annotate(self, api: Any, verdicts: Iterable[dict[str, Any]]) -> int:
        """The newest verdicts, each once: a tag names the record."""
        newest = sorted(verdicts, key=lambda each: float(each["time"]))[-MAX_ANNOTATIONS:]
        if not newest:
            return 0
        since, until = (int(1000 * float(newest[i]["time"])) for i in (0, -1))
        known = api.annotations.find_annotations(time_from=since - 1, time_to=until + 1, tags=["barograph"], limit=10 * MAX_ANNOTATIONS)
        there = {tag for each in known for tag in each.get("tags", [])}
        made = 0
        for record in newest:
            if (mark := f"record:{record['seq']}@{int(record['time'])}") in there:
                continue
            tags = ["barograph", "verdict", f"rule:{record['rule']}", f"action:{record['action']}", mark]
            at = int(1000 * float(record["time"]))
            api.annotations.add_annotation(
                time_from=at, time_to=at, tags=tags, text=f"{record['action']}: {record['rule']}, token {record['position']}"
            )
            made += 1
        return made

    def _tell(self, what: str, how: str) -> None:
        self.tell(f"{what}: {how}")

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """What Grafana answers, as one line that says what to do."""
        try:
            yield
        except GrafanaUnauthorizedError:
            raise GrafanaError(
                f"{self.url}: {what}: 401: it does not know this token; expected one of a service account with the role Admin, in GRAFANA_TOKEN"
            ) from None
        except GrafanaTimeoutError:
            raise GrafanaError(f"{self.url}: {what}: no answer within 15 s; is it a Grafana?") from None
        except GrafanaException as error:
            raise GrafanaError(f"{self.url}: {what}: {_said(error)}") from None
        except OSError as error:
            raise GrafanaError(
                f"{self.url}: {what}: it cannot be reached ({type(error).__name__}); expected such as http://127.0.0.1:3000"
            ) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GrafanaError(
                f"{self.url}: {what}: it answered something that is none of Grafana's answers ({type(error).__name__})"
            ) from None


def _or_none(ask: Callable[[], Any]) -> Any:
    """Nothing when it is not there."""
    try:
        return ask()
    except GrafanaClientError as error:
        if error.status_code == 404:
            return None
        raise


def _said(error: Any) -> str:
    status = error.status_code
    meant = {
        403: "the token may not do this; expected the role Admin", 409: "somebody else changed it meanwhile, or its name is taken; run it again, or rename theirs",
        412: "it is another one of that name; rename theirs", 500: "Grafana itself failed; its log says why",
    }.get(status, "")  # fmt: skip
    return f"{status}: {meant or str(error.message)[:200]}"


def _same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether it is what we would write; Grafana adds an id and a version."""
    return {name: value for name, value in found.items() if name not in ("id", "version")} == wanted
