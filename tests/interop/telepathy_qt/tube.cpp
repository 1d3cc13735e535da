// One side's client by telepathy-qt: brings an account online, then offers a stream tube or accepts one.
//
//   tube offer  NAME PORT PEER SERVICE tcp|unix        echoes what comes through the tube
//   tube accept NAME PORT PEER SERVICE tcp|unix BYTES  sends that many and compares what comes back
//
// Everything goes through telepathy-qt's own classes: ConnectionManager, Connection with its roster and
// capabilities, OutgoingStreamTubeChannel and IncomingStreamTubeChannel. There is no Mission Control:
// the connection and the channel are requested through the "lowlevel" classes, as it would.
//
// Says on a line each what happens, for telepathy_qt.py to read, and ends with 0 when the tube was used
// and closed. Any failure, or 40 seconds without the next step, is a line on the error output and 1.

// Says that this program does what otherwise Mission Control does.
#define TP_QT_ENABLE_LOWLEVEL_API

#include <QCoreApplication>
#include <QEventLoop>
#include <QLocalServer>
#include <QLocalSocket>
#include <QTcpServer>
#include <QTcpSocket>
#include <QTemporaryDir>
#include <QTimer>
#include <TelepathyQt/ChannelFactory>
#include <TelepathyQt/Connection>
#include <TelepathyQt/ConnectionFactory>
#include <TelepathyQt/ConnectionLowlevel>
#include <TelepathyQt/ConnectionManager>
#include <TelepathyQt/ConnectionManagerLowlevel>
#include <TelepathyQt/ContactCapabilities>
#include <TelepathyQt/ContactFactory>
#include <TelepathyQt/ContactManager>
#include <TelepathyQt/IncomingStreamTubeChannel>
#include <TelepathyQt/OutgoingStreamTubeChannel>
#include <TelepathyQt/PendingChannel>
#include <TelepathyQt/PendingConnection>
#include <TelepathyQt/PendingReady>
#include <TelepathyQt/PendingStreamTubeConnection>
#include <TelepathyQt/Types>
#include <cstdlib>
#include <functional>
#include <iostream>

using namespace Tp;

static const QString STREAM_TUBE = TP_QT_IFACE_CHANNEL_TYPE_STREAM_TUBE;

[[noreturn]] static void fail(const QString &what)
{
    std::cerr << what.toStdString() << std::endl;
    std::_Exit(1);
}

static void say(const QString &what)
{
    std::cout << what.toStdString() << std::endl;
}

// Lets the event loop run until something holds.
static void until(const QString &what, const std::function<bool()> &holds)
{
    QTimer deadline;
    deadline.setSingleShot(true);
    deadline.start(40000);
    QTimer tick;  // what no event announces is looked at now and then
    tick.start(100);
    while (!holds()) {
        if (!deadline.isActive())
            fail("waited until " + what);
        QCoreApplication::processEvents(QEventLoop::WaitForMoreEvents);
    }
}

template <class Operation>
static Operation *finished(const QString &what, Operation *operation)
{
    bool done = false;
    QObject::connect(operation, &PendingOperation::finished, [&] { done = true; });
    until(what, [&] { return done; });
    if (operation->isError())
        fail(what + ": " + operation->errorName() + ": " + operation->errorMessage());
    return operation;
}

struct Side
{
    ConnectionManagerPtr manager;
    ConnectionPtr connection;
    ContactPtr peer;
    // Channels that were offered to us: path and immutable properties.
    ChannelDetailsList offered;

    Side(const QString &name, ushort port, const QString &service);
    void see(const QString &name, const QString &service);
    void offer(const QString &service, bool tcp);
    void accept(const QString &service, bool tcp, int bytes);
    void end(const StreamTubeChannelPtr &tube, bool ours);
};

Side::Side(const QString &name, ushort port, const QString &service)
{
    QDBusConnection bus = QDBusConnection::sessionBus();
    Features features;
    features << Connection::FeatureCore << Connection::FeatureConnected
             << Connection::FeatureSelfContact << Connection::FeatureRoster;
    manager = ConnectionManager::create(bus, "pneuma",
        ConnectionFactory::create(bus), ChannelFactory::create(bus),
        ContactFactory::create(Features() << Contact::FeatureAlias << Contact::FeatureCapabilities
                                          << Contact::FeatureSimplePresence));
    finished("the manager is ready", manager->becomeReady());
    if (!manager->supportedProtocols().contains("local-xmpp"))
        fail("the manager has no local-xmpp");
    QVariantMap parameters;
    parameters["published-name"] = name;
    parameters["pneuma-interface"] = "lo";
    parameters["pneuma-mdns-port"] = QVariant::fromValue(port);
    connection = finished("the connection is there",
        manager->lowlevel()->requestConnection("local-xmpp", parameters))->connection();
    finished("the account is online", connection->lowlevel()->requestConnect(features));
    auto requests = connection->interface<Client::ConnectionInterfaceRequestsInterface>();
    QObject::connect(requests, &Client::ConnectionInterfaceRequestsInterface::NewChannels,
        [this](const ChannelDetailsList &channels) { offered += channels; });
    // What a Handler's filter makes Mission Control say.
    HandlerCapabilities handler;
    handler.wellKnownName = "org.freedesktop.Telepathy.Client.Test";
    ChannelClass filter;
    filter[TP_QT_IFACE_CHANNEL + ".ChannelType"] = QDBusVariant(STREAM_TUBE);
    filter[TP_QT_IFACE_CHANNEL + ".TargetHandleType"] = QDBusVariant(uint(HandleTypeContact));
    filter[STREAM_TUBE + ".Service"] = QDBusVariant(service);
    handler.channelClasses << filter;
    auto capabilities = connection->interface<Client::ConnectionInterfaceContactCapabilitiesInterface>();
    QDBusPendingReply<> updated = capabilities->UpdateCapabilities(HandlerCapabilitiesList() << handler);
    updated.waitForFinished();
    if (updated.isError())
        fail("UpdateCapabilities: " + updated.error().message());
    say("online " + connection->selfContact()->id());
}

// Waits until a contact of this name can take such tubes, as telepathy-qt reads its capabilities.
void Side::see(const QString &name, const QString &service)
{
    until(name + " takes " + service, [&] {
        for (const ContactPtr &contact : connection->contactManager()->allKnownContacts()) {
            if (contact->id().startsWith(name + "@") && contact->capabilities().streamTubes(service))
                peer = contact;
        }
        return !peer.isNull();
    });
    say("sees " + peer->id() + " " + peer->presence().status());
}

template <class Socket>
static void echo(Socket *socket)
{
    QObject::connect(socket, &QIODevice::readyRead, [socket] { socket->write(socket->readAll()); });
    socket->write(socket->readAll());
}

void Side::offer(const QString &service, bool tcp)
{
    QVariantMap request;
    request[TP_QT_IFACE_CHANNEL + ".ChannelType"] = STREAM_TUBE;
    request[TP_QT_IFACE_CHANNEL + ".TargetHandleType"] = uint(HandleTypeContact);
    request[TP_QT_IFACE_CHANNEL + ".TargetHandle"] = peer->handle()[0];
    request[STREAM_TUBE + ".Service"] = service;
    auto tube = OutgoingStreamTubeChannelPtr::qObjectCast(
        finished("the channel is made", connection->lowlevel()->createChannel(request))->channel());
    if (tube.isNull())
        fail("the channel is no outgoing stream tube");
    finished("the channel is ready", tube->becomeReady(Features()
        << OutgoingStreamTubeChannel::FeatureCore << StreamTubeChannel::FeatureConnectionMonitoring));
    if (tube->service() != service || !tube->isRequested())
        fail("the channel is another one");

    QTcpServer over_tcp;
    QLocalServer over_unix;
    QTemporaryDir folder;
    QObject::connect(&over_tcp, &QTcpServer::newConnection,
        [&] { echo(over_tcp.nextPendingConnection()); });
    QObject::connect(&over_unix, &QLocalServer::newConnection,
        [&] { echo(over_unix.nextPendingConnection()); });
    QObject::connect(tube.data(), &StreamTubeChannel::newConnection, [&](uint id) {
        ContactPtr contact = tube->contactsForConnections().value(id);
        say("connection of " + (contact ? contact->id() : QString("nobody")));
    });
    QObject::connect(tube.data(), &StreamTubeChannel::connectionClosed,
        [](uint, const QString &error, const QString &) { say("connection closed " + error); });
    QVariantMap parameters;
    parameters["greeting"] = "Καλημέρα";
    parameters["number"] = 7u;
    if (tcp) {
        if (!over_tcp.listen(QHostAddress::LocalHost))
            fail("no port to listen on");
        finished("the tube is offered", tube->offerTcpSocket(&over_tcp, parameters));
    } else {
        if (!over_unix.listen(folder.filePath("service")))
            fail("no socket to listen on");
        finished("the tube is offered", tube->offerUnixSocket(&over_unix, parameters));
    }
    say("open");
    end(tube, false);
}

template <class Socket>
static bool exchange(Socket &socket, int bytes)
{
    QByteArray sent, back;
    uint state = 1;
    for (int i = 0; i < bytes; ++i) {
        state = state * 1664525 + 1013904223;
        sent.append(static_cast<char>(state >> 24));
    }
    QObject::connect(&socket, &QIODevice::readyRead, [&] { back += socket.readAll(); });
    socket.write(sent);
    until("as many bytes came back", [&] { return back.size() >= sent.size(); });
    return back == sent;
}

void Side::accept(const QString &service, bool tcp, int bytes)
{
    ChannelDetails details;
    until(service + " is offered", [&] {
        for (const ChannelDetails &each : offered) {
            if (each.properties.value(STREAM_TUBE + ".Service").toString() == service)
                details = each;
        }
        return !details.properties.isEmpty();
    });
    auto tube = IncomingStreamTubeChannel::create(connection, details.channel.path(), details.properties);
    finished("the channel is ready", tube->becomeReady(Features()
        << IncomingStreamTubeChannel::FeatureCore << StreamTubeChannel::FeatureConnectionMonitoring));
    if (tube->isRequested() || tube->initiatorContact() != peer)
        fail("the tube comes from somebody else");
    if (tube->parameters().value("greeting").toString() != "Καλημέρα"
        || tube->parameters().value("number").toUInt() != 7)
        fail("the parameters are others");
    auto accepted = finished("the tube is accepted",
        tcp ? tube->acceptTubeAsTcpSocket() : tube->acceptTubeAsUnixSocket());
    bool same;
    if (tcp) {
        QTcpSocket socket;
        socket.connectToHost(accepted->ipAddress().first, accepted->ipAddress().second);
        same = exchange(socket, bytes);
    } else {
        QLocalSocket socket;
        socket.connectToServer(accepted->localAddress());
        same = exchange(socket, bytes);
    }
    say(same ? "same" : "different");
    end(tube, true);
}

// Closes the tube, or waits until the other side has.
void Side::end(const StreamTubeChannelPtr &tube, bool ours)
{
    if (ours)
        finished("the tube is closed", tube->requestClose());
    until("the channel is gone", [&] { return !tube->isValid(); });
    say("gone");
    finished("the account is offline", connection->lowlevel()->requestDisconnect());
}

int main(int argc, char **argv)
{
    QCoreApplication application(argc, argv);
    registerTypes();
    const QStringList given = application.arguments();
    const bool offers = given.value(1) == "offer";
    if (given.size() != (offers ? 7 : 8))
        fail("wrong arguments: see the head of tube.cpp");
    const QString service = given[5];
    const bool tcp = given[6] == "tcp";
    Side side(given[2], given[3].toUShort(), service);
    side.see(given[4], service);
    if (offers)
        side.offer(service, tcp);
    else
        side.accept(service, tcp, given[7].toInt());
    return 0;
}
