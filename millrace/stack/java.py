"""Java and the jars: the programs that Kafka and Kafka Connect are made of."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millrace.stack import services
from millrace.stack.errors import StackIncomplete
from millrace.stack.jars import check_jars

LOGGING = "log4j2.xml"

LOG4J = """\
<?xml version="1.0" encoding="UTF-8"?>
<!-- Everything goes to standard output, which is the service's log file: the JVM's own words stand there too. -->
<Configuration status="warn">
  <Appenders>
    <Console name="log"><PatternLayout pattern="%d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %m (%c{1})%n"/></Console>
  </Appenders>
  <Loggers>
    <Root level="info"><AppenderRef ref="log"/></Root>
    <!-- All settings at every start of a client, its version, and a line for each REST request. -->
    <Logger name="org.apache.kafka.common.config.AbstractConfig" level="warn"/>
    <Logger name="org.apache.kafka.common.utils.AppInfoParser" level="warn"/>
    <Logger name="org.apache.kafka.clients" level="warn"/>
    <Logger name="org.apache.kafka.connect.runtime.rest.RestServer" level="warn"/>
  </Loggers>
</Configuration>
"""


@dataclass(frozen=True, slots=True)
class Java:
    """A Java program of the right version and the class path of the stack."""

    program: str
    jars: Path
    sharing: bool = False
    """Whether programs leave, when they end, an archive of their classes beside the jars; see `share_classes`."""
    brief: bool = False
    """Whether programs run for minutes only: Java's second compiler would take more time than it saves."""

    def command(self, main_class: str, *arguments: str) -> list[str]:
        """The command line that runs a class of the jars, with a file LOGGING in its working directory."""
        compiler = ["-XX:TieredStopAtLevel=1"] if self.brief else []
        options = [*services.JAVA_OPTIONS, *compiler, *self._archive(main_class)]
        options.append(f"-Dlog4j2.configurationFile={LOGGING}")
        return [self.program, *options, "-cp", f"{self.jars}/*", main_class, *arguments]

    def _archive(self, main_class: str) -> list[str]:
        archive = self.jars / f"{main_class.rpartition('.')[2]}.jsa"
        if self.sharing:
            return ["-Xlog:cds=off", f"-XX:ArchiveClassesAtExit={archive}"]
        # One of another Java or of other jars is ignored by the JVM.
        return ["-Xlog:cds=off", f"-XX:SharedArchiveFile={archive}"] if archive.is_file() else []


def find_java(jars: Path, java_home: Path | None, *, sharing: bool = False, brief: bool = False) -> Java:
    """`java` from `java_home`, else from PATH, with the jars of the stack.

    Raises:
        StackIncomplete: there is no Java, it is too old, or a jar is missing.
    """
    check_jars(jars)
    program = shutil.which(str(java_home / "bin" / "java")) if java_home else shutil.which("java")
    install = "install a JRE (Debian, Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk)"
    if program is None:
        where = f"in JAVA_HOME={java_home}" if java_home else "on PATH, and JAVA_HOME is not set"
        raise StackIncomplete(f"there is no java {where}: {install}")
    version = java_version(program)
    if version < services.JAVA_MINIMUM:
        raise StackIncomplete(
            f"{program} is Java {version}, Kafka {services.KAFKA_VERSION} needs {services.JAVA_MINIMUM} or newer: "
            f"{install}, or set JAVA_HOME"
        )
    return Java(program, jars.resolve(), sharing, brief)


def java_version(program: str) -> int:
    """The major version that `java -version` names; 8 for the old form 1.8.

    Raises:
        StackIncomplete: the program does not run or names no version.
    """
    answer = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if answer.returncode != 0 or found is None:
        raise StackIncomplete(f"{program} -version did not answer with a version: {answer.stderr.strip()}")
    return int(found[1])


def write_properties(path: Path, settings: Mapping[str, str]) -> None:
    """A Java properties file; no setting of the stack needs escaping."""
    path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
